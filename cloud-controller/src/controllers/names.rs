//! What the controllers are called, and which of them run.

use std::collections::BTreeSet;

/// Makes load balancers.
pub const SERVICE: &str = "service-lb-controller";
/// Makes routes.
pub const ROUTE: &str = "node-route-controller";
/// Has nodes say what their machines are.
pub const NODE: &str = "cloud-node-controller";
/// Has nodes go with their machines.
pub const NODE_LIFECYCLE: &str = "cloud-node-lifecycle-controller";

/// All of them, with the names they had before.
const ALL: [(&str, &str); 4] =
    [(SERVICE, "service"), (ROUTE, "route"), (NODE, "cloud-node"), (NODE_LIFECYCLE, "cloud-node-lifecycle")];

/// A name of no controller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not in the list of known controllers")]
pub struct Unknown(String);

/// The controllers that run: `*` stands for all, `-` takes one away; what stands first of one counts.
///
/// # Errors
/// When one is not known.
pub fn enabled(list: &[String]) -> Result<BTreeSet<&'static str>, Unknown> {
    let name =
        |given: &str| ALL.iter().find(|(name, old)| given == *name || given == *old).map(|(name, _)| *name);
    let mut chosen: Vec<(Option<&'static str>, bool)> = Vec::new();
    for given in list {
        let bare = given.strip_prefix('-').unwrap_or(given);
        match (given.as_str(), name(bare)) {
            ("*", _) => chosen.push((None, true)),
            (_, Some(name)) => chosen.push((Some(name), bare == given)),
            (_, None) => return Err(Unknown(given.clone())),
        }
    }
    let runs = |name: &&'static str| {
        let own = chosen.iter().find(|(of, _)| *of == Some(*name));
        own.map_or_else(|| chosen.contains(&(None, true)), |(_, runs)| *runs)
    };
    Ok(ALL.iter().map(|(name, _)| *name).filter(runs).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_which_controllers_run() {
        let of = |list: &[&str]| {
            let list: Vec<String> = list.iter().map(|name| (*name).to_owned()).collect();
            enabled(&list).map(|all| all.into_iter().collect::<Vec<_>>())
        };
        assert_eq!(of(&["*"]).unwrap(), [NODE, NODE_LIFECYCLE, ROUTE, SERVICE]);
        assert_eq!(of(&["*", "-route"]).unwrap(), [NODE, NODE_LIFECYCLE, SERVICE]);
        assert_eq!(of(&["-cloud-node-controller", "*"]).unwrap(), [NODE_LIFECYCLE, ROUTE, SERVICE]);
        assert_eq!(of(&["service", ROUTE]).unwrap(), [ROUTE, SERVICE]);
        assert_eq!(of(&["service", "-service", "*", "-*"]), Err(Unknown("-*".into())));
        assert_eq!(of(&["service", "-service"]).unwrap(), [SERVICE], "the first one counts");
        assert!(of(&[]).unwrap().is_empty());
        assert_eq!(
            of(&["*", "-x"]).unwrap_err().to_string(),
            "\"-x\" is not in the list of known controllers"
        );
    }
}
