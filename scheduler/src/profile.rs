//! Profiles: which plugins decide for the pods that name one, with which weights and arguments.
//!
//! Contract: "Scheduler Configuration", profiles and extension points. A plugin here answers at all its points at
//! once; a point stands for what upstream splits in two (`preFilter` and `filter`, `preScore` and `score`,
//! `reserve` and `preBind`): off at one of them is off at both.

use std::{sync::Arc, time::Duration};

use serde_json::Value;

use component_base::features::Gates;

use crate::{
    config::{
        PluginSet, PluginSwitch, Plugins, ProfileConfiguration,
        args::{self, ArgsError, DefaultPreemptionArgs, DynamicResourcesArgs, NoArgs, VolumeBindingArgs},
    },
    metrics::Metrics,
    plugins::{
        self, Points, Registered, Turns, Weighted,
        measured::{Measured, Sampling},
    },
};

/// The profile of pods that name none.
pub const DEFAULT_NAME: &str = "default-scheduler";
/// Plugins that are not plugins here: the queue's order, binding and preemption.
const PREEMPTION: &str = "DefaultPreemption";
const BUILT_IN: &[&str] = &["PrioritySort", "DefaultBinder", PREEMPTION];
const DEVICES: &str = "DynamicResources";
/// How long a pod waits for its claims to be bound.
const BIND_TIMEOUT: i64 = 600;

/// Why a profile cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// No such plugin.
    #[error("{0} does not exist in the registry")]
    Unknown(String),
    /// A plugin that cannot be missing is switched off.
    #[error("{0} cannot be disabled")]
    Needed(&'static str),
    /// A plugin is switched on twice at one point.
    #[error("plugin {0:?} already registered")]
    Twice(String),
    /// A plugin has two sets of arguments.
    #[error("repeated config for plugin {0}")]
    Repeated(String),
    /// Arguments are not usable.
    #[error("initializing plugin {name:?}")]
    Args {
        /// The plugin.
        name: String,
        /// Why.
        #[source]
        source: ArgsError,
    },
}

/// How pods of one scheduler name are decided on.
pub struct Profile {
    /// What pods call it.
    pub name: String,
    /// Its plugins, in order.
    pub plugins: Vec<Weighted>,
    /// `percentageOfNodesToScore`; 0 for adaptive.
    pub percentage: u32,
    /// How preemption looks for victims; `None` when it is off.
    pub preemption: Option<DefaultPreemptionArgs>,
    /// How long its pods wait for what they are bound with.
    pub timeouts: Timeouts,
}

/// How long a pod that has its node waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until its claims are bound to volumes.
    pub volumes: Duration,
    /// Until its devices are ready, from when they were given to its claims.
    pub devices: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let usual = Duration::from_secs(BIND_TIMEOUT.unsigned_abs());
        Timeouts { volumes: usual, devices: usual }
    }
}

impl std::fmt::Debug for Profile {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plugins: Vec<&str> = self.plugins.iter().map(|w| w.plugin.name()).collect();
        out.debug_struct("Profile")
            .field("name", &self.name)
            .field("plugins", &plugins)
            .finish_non_exhaustive()
    }
}

impl Profile {
    /// Builds a profile; `percentage` is what the file says for all.
    ///
    /// # Errors
    /// When it names a plugin that is not there, or gives one arguments it does not have.
    pub fn new(
        profile: &ProfileConfiguration,
        percentage: Option<i32>,
        features: Gates,
    ) -> Result<Profile, ProfileError> {
        let switches = &profile.plugins;
        check_names(profile)?;
        let args = |name: &str| profile.plugin_config.iter().find(|c| c.name == name).map(|c| &c.args);
        let mut out = Vec::new();
        let all = order(switches, features);
        let (gating, preparing) = (
            at(&all, &switches.pre_enqueue, features, switches),
            at(&all, &switches.pre_filter, features, switches),
        );
        let filtering = at(&all, &switches.filter, features, switches);
        let turn = |of: &[&str], name: &str| of.iter().position(|n| *n == name).unwrap_or(of.len());
        for registered in all {
            let points = points(switches, registered, features);
            if points == Points::NONE {
                continue;
            }
            let plugin = (registered.make)(args(registered.name), features).map_err(of(registered.name))?;
            let weigh = |set: &PluginSet, is_on: bool| match is_on {
                true => weight(switches, set, registered, features),
                false => 0,
            };
            let weight = weigh(&switches.score, points.scores);
            let domain_weight = weigh(
                &switches.placement_score,
                is_on(
                    switches,
                    &[&switches.placement_score],
                    registered.name,
                    registered.is_default(features),
                ),
            );
            let (gates, prepares) = (turn(&gating, registered.name), turn(&preparing, registered.name));
            let turns = Turns { gates, prepares };
            out.push(Weighted { plugin, weight, domain_weight, points, turns });
        }
        out.sort_by_key(|w| turn(&filtering, w.plugin.name()));
        let preempts = is_on(switches, &[&switches.post_filter], PREEMPTION, true);
        let preemption: DefaultPreemptionArgs = read(PREEMPTION, args(PREEMPTION))?;
        preemption.check().map_err(of(PREEMPTION))?;
        let binding: VolumeBindingArgs = read("VolumeBinding", args("VolumeBinding"))?;
        let devices: DynamicResourcesArgs = read(DEVICES, args(DEVICES))?;
        let percentage = profile.percentage_of_nodes_to_score.or(percentage).unwrap_or(0);
        let timeout = binding.bind_timeout_seconds.unwrap_or(BIND_TIMEOUT);
        Ok(Profile {
            name: profile.name().to_owned(),
            plugins: out,
            percentage: percentage.unsigned_abs(),
            preemption: preempts.then_some(preemption),
            timeouts: Timeouts {
                volumes: Duration::from_secs(timeout.unsigned_abs()),
                devices: devices.binding_timeout(features).map_err(of(DEVICES))?,
            },
        })
    }

    /// The same profile; its plugins tell how often they are asked and how long they take.
    pub fn measured(self, metrics: &Arc<Metrics>, sampling: &Sampling) -> Profile {
        let name = &self.name;
        let measure = |w: Weighted| {
            let plugin = Box::new(Measured::new(w.plugin, name, metrics, sampling));
            Weighted { plugin, ..w }
        };
        let plugins = self.plugins.into_iter().map(measure).collect();
        Profile { name: self.name.clone(), plugins, ..self }
    }

    /// The profile with the default plugins.
    pub fn with_defaults(name: String, features: Gates) -> Profile {
        Profile {
            name,
            plugins: plugins::defaults(features),
            percentage: 0,
            preemption: Some(DefaultPreemptionArgs::default()),
            timeouts: Timeouts::default(),
        }
    }
}

fn of(name: &str) -> impl FnOnce(ArgsError) -> ProfileError {
    move |source| ProfileError::Args { name: name.to_owned(), source }
}

fn read<T: serde::de::DeserializeOwned>(name: &str, args: Option<&Value>) -> Result<T, ProfileError> {
    args::read(name, args).map_err(of(name))
}

fn check_names(profile: &ProfileConfiguration) -> Result<(), ProfileError> {
    let switches = &profile.plugins;
    let known = |name: &str| BUILT_IN.contains(&name) || plugins::REGISTRY.iter().any(|p| p.name == name);
    let enabled = sets(switches).into_iter().flat_map(|set| &set.enabled).map(|p| p.name.as_str());
    let configured = profile.plugin_config.iter().map(|c| c.name.as_str());
    if let Some(name) = enabled.chain(configured).find(|name| !known(name)) {
        return Err(ProfileError::Unknown(name.to_owned()));
    }
    for set in sets(switches) {
        let twice = |(at, switch): (usize, &PluginSwitch)| {
            set.enabled[..at].iter().any(|other| other.name == switch.name)
        };
        if let Some(at) = (0..set.enabled.len()).find(|at| twice((*at, &set.enabled[*at]))) {
            return Err(ProfileError::Twice(set.enabled[at].name.clone()));
        }
    }
    for (at, config) in profile.plugin_config.iter().enumerate() {
        if profile.plugin_config[..at].iter().any(|other| other.name == config.name) {
            return Err(ProfileError::Repeated(config.name.clone()));
        }
        if BUILT_IN.contains(&config.name.as_str()) && config.name != PREEMPTION {
            read::<NoArgs>(&config.name, Some(&config.args))?;
        }
    }
    for (name, set) in [("PrioritySort", &switches.queue_sort), ("DefaultBinder", &switches.bind)] {
        if !is_on(switches, &[set], name, true) {
            return Err(ProfileError::Needed(name));
        }
    }
    Ok(())
}

pub(crate) fn sets(switches: &Plugins) -> [&PluginSet; 15] {
    [
        &switches.multi_point,
        &switches.pre_enqueue,
        &switches.queue_sort,
        &switches.pre_filter,
        &switches.filter,
        &switches.post_filter,
        &switches.pre_score,
        &switches.score,
        &switches.reserve,
        &switches.permit,
        &switches.pre_bind,
        &switches.bind,
        &switches.post_bind,
        &switches.placement_generate,
        &switches.placement_score,
    ]
}

/// The default plugins in their order, if the profile leaves them on; then those that it switches on for all points, in
/// its order; then the others.
fn order(switches: &Plugins, features: Gates) -> Vec<&'static Registered> {
    let all = &switches.multi_point;
    let stays = |p: &&Registered| p.is_default(features) && !all.disables(p.name);
    let (mut first, mut last): (Vec<_>, Vec<_>) = plugins::REGISTRY.iter().partition(stays);
    let place = |p: &&Registered| all.enabled.iter().position(|s| s.name == p.name);
    last.sort_by_key(|p| (place(p).is_none(), place(p)));
    first.extend(last);
    first
}

/// The order at a point: those it names that are on everywhere, then the others that are, then what it has for itself.
fn at<'s>(
    all: &[&'static Registered],
    point: &'s PluginSet,
    features: Gates,
    switches: &Plugins,
) -> Vec<&'s str> {
    let everywhere = |name: &str| {
        let known = all.iter().find(|p| p.name == name);
        known.is_some_and(|p| is_on(switches, &[], name, p.is_default(features))) && !point.disables(name)
    };
    let named = || point.enabled.iter().map(|switch| switch.name.as_str());
    let first = named().filter(|name| everywhere(name));
    let rest = all.iter().map(|p| p.name).filter(|name| everywhere(name) && point.enables(name).is_none());
    first.chain(rest).chain(named().filter(|name| !everywhere(name))).collect()
}

/// Whether a plugin is on at a point: switched on there, or on for all points and not switched off there.
fn is_on(switches: &Plugins, sets: &[&PluginSet], name: &str, is_default: bool) -> bool {
    let all = &switches.multi_point;
    let everywhere = all.enables(name).is_some() || (is_default && !all.disables(name));
    let here = sets.iter().any(|set| set.enables(name).is_some());
    here || (everywhere && !sets.iter().any(|set| set.disables(name)))
}

fn points(switches: &Plugins, registered: &Registered, features: Gates) -> Points {
    let is_default = registered.is_default(features);
    let on = |sets: &[&PluginSet]| is_on(switches, sets, registered.name, is_default);
    Points {
        gates: on(&[&switches.pre_enqueue]),
        filters: on(&[&switches.pre_filter, &switches.filter]),
        scores: on(&[&switches.pre_score, &switches.score]),
        lets_go: on(&[&switches.post_filter]),
        reserves: on(&[&switches.reserve, &switches.pre_bind]),
        permits: on(&[&switches.permit]),
        generates: on(&[&switches.placement_generate]),
    }
}

/// The weight given at the point, else that given for all points, else the default one. Who switches a plugin on and says
/// nothing of its weight gives it 1.
fn weight(switches: &Plugins, point: &PluginSet, registered: &Registered, features: Gates) -> i64 {
    let given = |set: &PluginSet| {
        let switch = set.enables(registered.name)?;
        Some(switch.weight.filter(|weight| *weight != 0).unwrap_or(1))
    };
    given(point).or_else(|| given(&switches.multi_point)).unwrap_or(registered.usual_weight(features))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn build(profile: Value) -> Result<Profile, String> {
        let parsed: ProfileConfiguration = serde_json::from_value(profile).map_err(|e| e.to_string())?;
        Profile::new(&parsed, Some(30), Gates::default()).map_err(|e| component_base::workqueue::chain(&e))
    }

    fn find<'p>(profile: &'p Profile, name: &str) -> Option<&'p Weighted> {
        profile.plugins.iter().find(|w| w.plugin.name() == name)
    }

    #[test]
    fn nothing_said_is_the_default() {
        let profile = build(json!({})).unwrap();
        let names = |plugins: &[Weighted]| -> Vec<(&str, i64)> {
            plugins.iter().map(|w| (w.plugin.name(), w.weight)).collect()
        };
        assert_eq!(names(&profile.plugins), names(&plugins::defaults(Gates::default())));
        assert_eq!((profile.name.as_str(), profile.percentage), (DEFAULT_NAME, 30));
        assert_eq!(profile.preemption, Some(DefaultPreemptionArgs::default()));
        assert_eq!(profile.timeouts, Timeouts::default());
    }

    #[test]
    fn plugins_are_switched_at_one_point_or_at_all() {
        let profile = build(json!({"plugins": {
            "multiPoint": {"disabled": [{"name": "ImageLocality"}]},
            "score": {"disabled": [{"name": "NodeAffinity"}], "enabled": [{"name": "TaintToleration", "weight": 7}]},
            "postFilter": {"disabled": [{"name": "*"}]},
        }}))
        .unwrap();
        assert!(find(&profile, "ImageLocality").is_none());
        let affinity = find(&profile, "NodeAffinity").unwrap();
        assert_eq!((affinity.weight, affinity.points.filters, affinity.points.scores), (0, true, false));
        assert_eq!(find(&profile, "TaintToleration").unwrap().weight, 7);
        assert_eq!(profile.preemption, None);
    }

    #[test]
    fn a_star_leaves_what_is_named() {
        let profile = build(json!({"plugins": {
            "multiPoint": {
                "disabled": [{"name": "*"}],
                "enabled": [{"name": "PrioritySort"}, {"name": "DefaultBinder"}, {"name": "NodeName"},
                    {"name": "NodeResourcesFit", "weight": 4}],
            },
        }}))
        .unwrap();
        let names: Vec<&str> = profile.plugins.iter().map(|w| w.plugin.name()).collect();
        assert_eq!(names, ["NodeName", "NodeResourcesFit"]);
        assert_eq!(profile.plugins[1].weight, 4);
        assert_eq!(profile.preemption, None);
    }

    #[test]
    fn points_have_an_order_of_their_own() {
        let profile = build(json!({"plugins": {
            "preEnqueue": {"enabled": [{"name": "DynamicResources"}]},
            "preFilter": {"disabled": [{"name": "*"}], "enabled": [{"name": "NodePorts"}, {"name": "NodeAffinity"}]},
            "filter": {
                "disabled": [{"name": "NodeName"}],
                "enabled": [{"name": "NodeName"}, {"name": "VolumeZone"}, {"name": "GangScheduling"}, {"name": "NodePorts"}],
            },
        }}))
        .unwrap();
        let names: Vec<&str> = profile.plugins.iter().map(|w| w.plugin.name()).collect();
        // What is on everywhere comes first, in the order of the point; what is so there alone comes last.
        assert_eq!(names[..4], ["VolumeZone", "NodePorts", "SchedulingGates", "NodeUnschedulable"]);
        assert_eq!(names[names.len() - 2..], ["NodeName", "GangScheduling"]);
        let turns = |name: &str| find(&profile, name).unwrap().turns;
        assert_eq!((turns("DynamicResources").gates, turns("SchedulingGates").gates), (0, 1));
        assert_eq!((turns("NodePorts").prepares, turns("NodeAffinity").prepares), (0, 1));
        let usual = build(json!({})).unwrap();
        let is_usual = |(at, w): (usize, &Weighted)| w.turns == Turns { gates: at, prepares: at };
        assert!(usual.plugins.iter().enumerate().all(is_usual));
    }

    #[test]
    fn plugins_come_in_the_order_of_the_profile_and_weigh_what_it_says() {
        let of = |profile: Value| -> Vec<(&'static str, i64)> {
            let built = build(profile).unwrap();
            built.plugins.iter().map(|w| (w.plugin.name(), w.weight)).collect()
        };
        let own = of(json!({"plugins": {"multiPoint": {
            "disabled": [{"name": "*"}],
            "enabled": [{"name": "ImageLocality", "weight": 5}, {"name": "PrioritySort"}, {"name": "NodeName"},
                {"name": "DefaultBinder"}, {"name": "TaintToleration"}],
        }}}));
        assert_eq!(own, [("ImageLocality", 5), ("NodeName", 1), ("TaintToleration", 1)]);
        let weight = |plugins: Value| {
            let all = of(json!({"plugins": plugins}));
            all.iter().find(|(name, _)| *name == "TaintToleration").map(|(_, weight)| *weight)
        };
        let named = |weight: Value| json!({"enabled": [{"name": "TaintToleration", "weight": weight}]});
        assert_eq!(weight(json!({})), Some(3));
        assert_eq!(weight(json!({"multiPoint": named(json!(null))})), Some(1), "it is configured anew");
        assert_eq!(weight(json!({"multiPoint": named(json!(4))})), Some(4));
        assert_eq!(weight(json!({"multiPoint": named(json!(4)), "score": named(json!(null))})), Some(1));
        assert_eq!(weight(json!({"multiPoint": named(json!(4)), "score": named(json!(6))})), Some(6));
        let replaced = of(json!({"plugins": {"multiPoint": named(json!(9))}}));
        let usual: Vec<&str> = plugins::defaults(Gates::default()).iter().map(|w| w.plugin.name()).collect();
        assert_eq!(replaced.iter().map(|(name, _)| *name).collect::<Vec<_>>(), usual, "it keeps its place");
        let anew = of(json!({"plugins": {"multiPoint": {
            "disabled": [{"name": "NodeName"}], "enabled": [{"name": "NodeName"}]}}}));
        assert_eq!(anew.last().map(|(name, _)| *name), Some("NodeName"));
        let twice = json!({"plugins": {"filter": {"enabled": [{"name": "NodeName"}, {"name": "NodeName"}]}}});
        assert_eq!(build(twice).unwrap_err(), "plugin \"NodeName\" already registered");
    }

    #[test]
    fn what_cannot_be_is_told() {
        let table = [
            (
                json!({"plugins": {"filter": {"enabled": [{"name": "X"}]}}}),
                "X does not exist in the registry",
            ),
            (json!({"pluginConfig": [{"name": "X", "args": {}}]}), "X does not exist in the registry"),
            (json!({"plugins": {"bind": {"disabled": [{"name": "*"}]}}}), "DefaultBinder cannot be disabled"),
            (
                json!({"pluginConfig": [{"name": "NodeName"}, {"name": "NodeName"}]}),
                "repeated config for plugin NodeName",
            ),
        ];
        for (profile, expected) in table {
            assert_eq!(build(profile).unwrap_err(), expected);
        }
        let unknown = build(json!({"pluginConfig": [{"name": "NodeResourcesFit", "args": {"x": 1}}]}));
        assert!(unknown.unwrap_err().starts_with("initializing plugin \"NodeResourcesFit\": decoding args"));
        let other =
            build(json!({"pluginConfig": [{"name": "NodeAffinity", "args": {"kind": "NodeNameArgs"}}]}));
        assert!(other.unwrap_err().contains("were not of type NodeAffinityArgs"));
        for (args, why) in [
            (json!({"minCandidateNodesPercentage": 101}), "not in valid range [0, 100]"),
            (json!({"minCandidateNodesPercentage": -1}), "decoding args"),
            (json!({"minCandidateNodesAbsolute": -1}), "decoding args"),
            (
                json!({"minCandidateNodesPercentage": 0, "minCandidateNodesAbsolute": 0}),
                "cannot be zero at the same time",
            ),
        ] {
            let refused = build(json!({"pluginConfig": [{"name": "DefaultPreemption", "args": args}]}));
            assert!(refused.unwrap_err().contains(why), "{args}");
        }
        let none_of_many = json!({"minCandidateNodesPercentage": 0, "minCandidateNodesAbsolute": 1});
        assert!(
            build(json!({"pluginConfig": [{"name": "DefaultPreemption", "args": none_of_many}]})).is_ok()
        );
    }

    #[test]
    fn arguments_reach_their_plugins() {
        let profile = build(json!({"schedulerName": "own", "percentageOfNodesToScore": 50, "pluginConfig": [
            {"name": "VolumeBinding", "args": {"bindTimeoutSeconds": 5}},
            {"name": "DefaultPreemption", "args": {"minCandidateNodesAbsolute": 3}},
        ]}))
        .unwrap();
        assert_eq!((profile.name.as_str(), profile.percentage), ("own", 50));
        assert_eq!(profile.timeouts.volumes, Duration::from_secs(5));
        assert_eq!(profile.preemption.map(|p| p.min_candidate_nodes_absolute), Some(3));
    }
}
