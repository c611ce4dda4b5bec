//! What the parameters of a list or watch ask for.
//!
//! Contract: ListOptions of the API reference; upstream `apimachinery/pkg/apis/meta/internalversion/validation`.
//! Pure: from the query to a request or the errors in it.

use std::{num::IntErrorKind, time::Duration};

use crate::{
    field::{Error, ErrorList, Path},
    request_path::info::Query,
    status::{GroupName, Reason, Status},
    storage::{ListPoint, WatchFrom},
};

/// Where a list stands and how much of it is wanted.
#[derive(Debug)]
pub(super) struct List {
    pub(super) limit: usize,
    pub(super) point: ListPoint,
}

/// Where a watch starts and how long it lasts.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) from: WatchFrom,
    pub(super) bookmarks: bool,
    /// `None` leaves it to the server.
    pub(super) timeout: Option<Duration>,
}

/// How fresh the answer to a GET has to be.
///
/// # Errors
/// 500, as upstream, for what is no revision.
pub(super) fn get(query: &Query) -> Result<ListPoint, Status> {
    if query.flag("export") {
        let why = "the export parameter, deprecated since v1.14, is no longer supported";
        return Err(Status::bad_request(why));
    }
    Ok(match query.get("resourceVersion") {
        "" => ListPoint::Consistent,
        "0" => ListPoint::Any,
        text => ListPoint::NotOlderThan(revision(text).map_err(unknown)?),
    })
}

/// Options of a list.
///
/// # Errors
/// 400 for what is no number or revision, 422 for options that exclude each other.
pub(super) fn list(query: &Query) -> Result<List, Status> {
    let limit = usize::try_from(number(query, "limit")?).unwrap_or(0);
    number(query, "timeoutSeconds")?;
    let (version, matching) = (query.get("resourceVersion"), query.get("resourceVersionMatch"));
    let mut errors = ErrorList::new();
    let path = Path::new("resourceVersionMatch");
    if !matching.is_empty() {
        if version.is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(Error::forbidden(&path, why));
        }
        not_with_continue(query, &path, &mut errors);
        if !["Exact", "NotOlderThan"].contains(&matching) {
            errors.push(Error::not_supported(&path, matching, &["", "Exact", "NotOlderThan"]));
        }
        if matching == "Exact" && version == "0" {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(Error::forbidden(&path, why));
        }
    }
    if query.has("sendInitialEvents") {
        let path = Path::new("sendInitialEvents");
        errors.push(Error::forbidden(&path, "sendInitialEvents is forbidden for list"));
    }
    refuse(&errors)?;
    if !query.get("continue").is_empty() && !matches!(version, "" | "0") {
        return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
    }
    let refused = |why| Status::bad_request(format!("invalid resource version: {why}"));
    let read = |version: &str| revision(version).map_err(refused);
    let point = match (version, matching) {
        ("", _) => ListPoint::Consistent,
        ("0", _) => ListPoint::Any,
        (version, "Exact") => ListPoint::Exact(read(version)?),
        // A page of a revision, as before there was a way to ask for it.
        (version, "") if limit > 0 => ListPoint::Exact(read(version)?),
        (version, _) => ListPoint::NotOlderThan(read(version)?),
    };
    Ok(List { limit, point })
}

/// Options of a watch.
///
/// # Errors
/// As for [`list`]; where lists are not streamed, for a watch that asks for that.
pub(super) fn watch(query: &Query, streams_lists: bool) -> Result<Watch, Status> {
    let seconds = number(query, "timeoutSeconds")?;
    number(query, "limit")?;
    let (asked, initial) = (query.has("sendInitialEvents"), query.flag("sendInitialEvents"));
    let legacy = matches!(query.get("resourceVersion"), "" | "0");
    let matching = query.get("resourceVersionMatch");
    let mut errors = ErrorList::new();
    let path = Path::new("resourceVersionMatch");
    if asked && matching != "NotOlderThan" {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(Error::forbidden(&path, why));
    }
    if asked && !streams_lists {
        let why = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        errors.push(Error::forbidden(&Path::new("sendInitialEvents"), why));
    }
    if !matching.is_empty() {
        if !asked {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(Error::forbidden(&path, why));
        }
        if matching != "NotOlderThan" {
            errors.push(Error::not_supported(&path, matching, &["NotOlderThan"]));
        }
        not_with_continue(query, &path, &mut errors);
    }
    refuse(&errors)?;
    let bookmarks = query.flag("allowWatchBookmarks");
    // Watches of old that begin with what there is are such of lists as well; only bookmarks tell of the end.
    let of_old = streams_lists && !asked && matching.is_empty() && legacy;
    let mark_end = bookmarks && (initial || of_old);
    let from = match query.get("resourceVersion") {
        "" => WatchFrom::Initial { point: ListPoint::Consistent, mark_end },
        "0" => WatchFrom::Initial { point: ListPoint::Any, mark_end },
        text if initial => {
            WatchFrom::Initial { point: ListPoint::NotOlderThan(revision(text).map_err(unknown)?), mark_end }
        }
        text => WatchFrom::Rev(revision(text).map_err(unknown)?),
    };
    let timeout = u64::try_from(seconds).ok().filter(|s| *s > 0).map(Duration::from_secs);
    Ok(Watch { from, bookmarks, timeout })
}

/// A resource version that a parameter names, or what is wrong with it.
fn revision(text: &str) -> Result<u64, String> {
    parse_uint(text).map_err(|why| format!("resourceVersion: Invalid value: {text:?}: {why}"))
}

/// A number without a sign, or what is wrong with it in Go's words.
pub(super) fn parse_uint(text: &str) -> Result<u64, String> {
    // Rust takes a sign where Go takes none.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let why = match text.parse() {
        Ok(version) if is_number => return Ok(version),
        Err(error) if is_number && *error.kind() == IntErrorKind::PosOverflow => "value out of range",
        _ => "invalid syntax",
    };
    Err(format!("strconv.ParseUint: parsing {text:?}: {why}"))
}

/// Gets and watches answer so where lists say that the request is bad.
fn unknown(why: String) -> Status {
    Status::new(500, Reason::Unknown, why)
}

fn not_with_continue(query: &Query, path: &Path, errors: &mut ErrorList) {
    if !query.get("continue").is_empty() {
        let why = "resourceVersionMatch is forbidden when continue is provided";
        errors.push(Error::forbidden(path, why));
    }
}

fn refuse(errors: &ErrorList) -> Result<(), Status> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&GroupName::new("meta.k8s.io", "ListOptions"), "", errors))
}

/// A parameter that is a whole number; 0 when it is not there.
pub(super) fn number(query: &Query, name: &str) -> Result<i64, Status> {
    match query.get(name) {
        "" => Ok(0),
        text => text
            .parse()
            .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lists_ask_for() {
        for (query, want) in [
            ("", "0 Consistent"),
            ("limit=5", "5 Consistent"),
            ("limit=-1", "0 Consistent"),
            ("resourceVersion=0", "0 Any"),
            ("resourceVersion=7", "0 NotOlderThan(7)"),
            ("resourceVersion=7&limit=2", "2 Exact(7)"),
            ("resourceVersion=7&resourceVersionMatch=Exact", "0 Exact(7)"),
            ("resourceVersion=7&limit=2&resourceVersionMatch=NotOlderThan", "2 NotOlderThan(7)"),
            ("limit=x", "400"),
            ("timeoutSeconds=soon", "400"),
            ("resourceVersion=x", "400"),
            ("resourceVersion=7&continue=c", "400"),
            ("resourceVersionMatch=Exact", "422"),
            ("resourceVersion=0&resourceVersionMatch=Exact", "422"),
            ("resourceVersion=7&resourceVersionMatch=Perhaps", "422"),
            ("resourceVersion=7&resourceVersionMatch=Exact&continue=c", "422"),
            ("sendInitialEvents=false", "422"),
        ] {
            let told = match list(&Query::parse(query)) {
                Ok(List { limit, point }) => format!("{limit} {point:?}"),
                Err(status) => status.code.to_string(),
            };
            assert_eq!(told, want, "{query}");
        }
    }

    #[test]
    fn what_gets_ask_for() {
        for (query, want) in [
            ("", "Consistent"),
            ("resourceVersion=0", "Any"),
            ("resourceVersion=7", "NotOlderThan(7)"),
            ("resourceVersion=%2B7", "500"),
            ("export=true", "400"),
            ("export=false", "Consistent"),
        ] {
            let told = match get(&Query::parse(query)) {
                Ok(point) => format!("{point:?}"),
                Err(status) => status.code.to_string(),
            };
            assert_eq!(told, want, "{query}");
        }
        let of = |text: &str| revision(text).unwrap_err();
        assert!(of("x").ends_with(r#""x": strconv.ParseUint: parsing "x": invalid syntax"#), "{}", of("x"));
        assert!(of("18446744073709551616").ends_with("value out of range"));
    }

    #[test]
    fn what_watches_ask_for() {
        for (query, want) in [
            ("", "Initial { point: Consistent, mark_end: false }"),
            ("resourceVersion=0", "Initial { point: Any, mark_end: false }"),
            ("allowWatchBookmarks=true", "Initial { point: Consistent, mark_end: true }"),
            ("resourceVersion=0&allowWatchBookmarks=true", "Initial { point: Any, mark_end: true }"),
            ("resourceVersion=7&allowWatchBookmarks=true", "Rev(7)"),
            ("resourceVersion=7&timeoutSeconds=3", "Rev(7)"),
            (
                "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
                "Initial { point: Consistent, mark_end: false }",
            ),
            (
                "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=7",
                "Initial { point: NotOlderThan(7), mark_end: false }",
            ),
            (
                "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=7&allowWatchBookmarks=1",
                "Initial { point: NotOlderThan(7), mark_end: true }",
            ),
            ("sendInitialEvents=true", "422"),
            ("resourceVersion=7&resourceVersionMatch=NotOlderThan", "422"),
            ("sendInitialEvents=true&resourceVersionMatch=Exact", "422"),
            ("timeoutSeconds=soon", "400"),
            ("resourceVersion=x", "500"),
        ] {
            let told = match watch(&Query::parse(query), true) {
                Ok(watch) => format!("{:?}", watch.from),
                Err(status) => status.code.to_string(),
            };
            assert_eq!(told, want, "{query}");
        }
        let streamed = Query::parse("sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
        let refused = watch(&streamed, false).unwrap_err();
        assert!(refused.code == 422 && refused.message.contains("WatchList feature gate"), "{refused}");
        assert!(watch(&Query::parse("resourceVersion=7"), false).is_ok());
    }
}
