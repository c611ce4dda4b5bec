//! Levels, queues and waiting requests as tables: what priority and fairness is doing right now.
//!
//! Contract: upstream's `/debug/api_priority_and_fairness/dump_*`. Of requests those that wait are told; who is being
//! served is counted only, so that nobody pays for being told of.

use std::sync::Arc;

use super::level::{Asked, Dump, Level};

const LEVELS: &[&str] = &[
    "PriorityLevelName",
    "ActiveQueues",
    "IsIdle",
    "IsQuiescing",
    "WaitingRequests",
    "ExecutingRequests",
    "DispatchedRequests",
    "RejectedRequests",
    "TimedoutRequests",
    "CancelledRequests",
];
const QUEUES: &[&str] = &[
    "PriorityLevelName",
    "Index",
    "PendingRequests",
    "ExecutingRequests",
    "SeatsInUse",
    "NextDispatchR",
    "InitialSeatsSum",
    "MaxSeatsSum",
    "TotalWorkSum",
];
const REQUESTS: &[&str] = &[
    "PriorityLevelName",
    "FlowSchemaName",
    "QueueIndex",
    "RequestIndexInQueue",
    "FlowDistingsher",
    "ArriveTime",
    "InitialSeats",
    "FinalSeats",
    "AdditionalLatency",
    "StartTime",
];
const DETAILS: &[&str] =
    &["UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource"];
/// Seconds a request is taken to last before it has begun.
const GUESS: f64 = 0.003;

/// One of the tables.
pub(super) fn table(levels: &[Arc<Level>], name: &str, details: bool) -> Option<String> {
    let mut levels: Vec<(&str, Dump)> = levels.iter().map(|level| (&*level.name, level.dump())).collect();
    levels.sort_by_key(|(name, _)| *name);
    let rows = match name {
        "dump_priority_levels" => of_levels(&levels),
        "dump_queues" => of_queues(&levels),
        "dump_requests" => of_requests(&levels, details),
        _ => return None,
    };
    Some(aligned(&rows))
}

type Row = Vec<String>;

fn head(names: &[&str]) -> Row {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn of_levels(levels: &[(&str, Dump)]) -> Vec<Row> {
    let row = |(name, level): &(&str, Dump)| {
        let waiting: usize = level.queues.iter().map(|queue| queue.waiting.len()).sum();
        let active = level.queues.iter().filter(|queue| !queue.waiting.is_empty()).count();
        let counts = level.counts;
        vec![
            (*name).to_owned(),
            active.to_string(),
            (waiting + level.running == 0).to_string(),
            // A level that is gone is not kept until its last request is.
            false.to_string(),
            waiting.to_string(),
            level.running.to_string(),
            counts.dispatched.to_string(),
            counts.rejected.to_string(),
            counts.timed_out.to_string(),
            counts.cancelled.to_string(),
        ]
    };
    [head(LEVELS)].into_iter().chain(levels.iter().map(row)).collect()
}

fn of_queues(levels: &[(&str, Dump)]) -> Vec<Row> {
    let mut rows = vec![head(QUEUES)];
    for (name, level) in levels {
        for (i, queue) in level.queues.iter().enumerate() {
            let seats: u32 = queue.waiting.iter().map(|(_, seats)| seats).sum();
            rows.push(vec![
                (*name).to_owned(),
                i.to_string(),
                queue.waiting.len().to_string(),
                queue.running.to_string(),
                queue.running_seats.to_string(),
                format!("{:.8}ss", queue.used),
                seats.to_string(),
                seats.to_string(),
                format!("{:.8}ss", GUESS * f64::from(seats)),
            ]);
        }
    }
    rows
}

fn of_requests(levels: &[(&str, Dump)], details: bool) -> Vec<Row> {
    let mut first = head(REQUESTS);
    if details {
        first.extend(head(DETAILS));
    }
    let mut rows = vec![first];
    for (name, level) in levels {
        for (i, queue) in level.queues.iter().enumerate() {
            for (at, (id, seats)) in queue.waiting.iter().enumerate() {
                let Some(asked) = level.waiting.get(id) else { continue };
                let mut row = vec![
                    (*name).to_owned(),
                    asked.schema.to_string(),
                    i.to_string(),
                    at.to_string(),
                    asked.flow.clone(),
                    asked.since.to_string(),
                    seats.to_string(),
                    "0".to_owned(),
                    "0s".to_owned(),
                    // It has not begun.
                    "0001-01-01T00:00:00Z".to_owned(),
                ];
                if details {
                    row.extend(of_asked(asked));
                }
                rows.push(row);
            }
        }
    }
    rows
}

fn of_asked(asked: &Asked) -> Row {
    let a = &asked.attributes;
    let version =
        if a.group.is_empty() { a.version.to_string() } else { format!("{}/{}", a.group, a.version) };
    vec![
        a.user.name.clone(),
        a.verb.to_string(),
        a.path.clone(),
        a.namespace.to_string(),
        a.name.to_string(),
        version,
        a.resource.to_string(),
        a.subresource.to_string(),
    ]
}

/// Cells with commas after them, in columns of at least eight.
fn aligned(rows: &[Row]) -> String {
    const LEAST: usize = 8;
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let longest =
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count() + 1).max();
        (longest.unwrap_or(0) + 1).max(LEAST)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (i, cell) in row.iter().enumerate() {
            if i + 1 < row.len() {
                let cell = format!("{cell},");
                text.push_str(&format!("{cell:<width$}", width = widths.get(i).copied().unwrap_or(LEAST)));
            } else {
                text.push_str(cell);
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [head(&["Name", "B", "C"]), head(&["a-long-name", "1", "2"])];
        assert_eq!(aligned(&rows), "Name,        B,      C\na-long-name, 1,      2\n");
    }
}
