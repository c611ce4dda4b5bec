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
        PluginSet, Plugins, ProfileConfiguration,
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
    #[error("{0} {1:?} does not exist")]
    Unknown(String, String),
    /// A plugin is asked at a point where it has nothing to say.
    #[error("plugin {1:?} does not extend {0} plugin")]
    Silent(String, String),
    /// Nobody says in which order pods are tried.
    #[error("only one queue sort plugin required for profile with scheduler name {0:?}, but got 0")]
    Unordered(String),
    /// Nobody binds.
    #[error("at least one bind plugin is needed for profile with scheduler name {0:?}")]
    Unbound(String),
    /// A plugin is switched on twice at one point.
    #[error("plugin {1:?} already registered as {0:?}")]
    Twice(String, String),
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
    /// Whether that comes before claims are let go of.
    pub makes_room_first: bool,
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
            // What arguments say is checked of those that are nowhere as well.
            if points == Points::NONE && args(registered.name).is_none() {
                continue;
            }
            let plugin = (registered.make)(args(registered.name), features).map_err(of(registered.name))?;
            if points == Points::NONE {
                continue;
            }
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
            makes_room_first: preempts && makes_room_first(switches),
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
            makes_room_first: false,
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

/// What a point's plugins are called.
fn kind(point: &str) -> String {
    let (first, rest) = point.split_at(1);
    format!("{}{rest}Plugin", first.to_uppercase())
}

fn check_names(profile: &ProfileConfiguration) -> Result<(), ProfileError> {
    let switches = &profile.plugins;
    let first = |set: &PluginSet, wrong: &dyn Fn(usize, &str) -> bool| {
        let mut names = set.enabled.iter().map(|switch| switch.name.as_str()).enumerate();
        names.find(|(at, name)| wrong(*at, name)).map(|(_, name)| name.to_owned())
    };
    let twice = |set: &PluginSet, at: usize, name: &str| set.enabled[..at].iter().any(|s| s.name == name);
    let is_unknown = |_: usize, name: &str| plugins::points(name).is_none();
    for (point, set) in switches.points() {
        let kind = kind(point);
        let says = |name: &str| plugins::points(name).is_some_and(|points| points.contains(&point));
        if let Some(name) = first(set, &is_unknown) {
            return Err(ProfileError::Unknown(kind, name));
        }
        if let Some(name) = first(set, &|_, name| !says(name)) {
            return Err(ProfileError::Silent(kind, name));
        }
        if let Some(name) = first(set, &|at, name| twice(set, at, name)) {
            return Err(ProfileError::Twice(kind, name));
        }
    }
    let everywhere = &switches.multi_point;
    if let Some(name) = first(everywhere, &is_unknown) {
        return Err(ProfileError::Unknown(kind("preFilter"), name));
    }
    if let Some(name) = first(everywhere, &|at, name| twice(everywhere, at, name)) {
        let point = plugins::points(&name).and_then(|points| points.first()).copied().unwrap_or("preFilter");
        return Err(ProfileError::Twice(kind(point), name));
    }
    for config in &profile.plugin_config {
        let name = config.name.as_str();
        if BUILT_IN.contains(&name) && name != PREEMPTION {
            read::<NoArgs>(name, Some(&config.args))?;
        }
    }
    if !is_on(switches, &[&switches.queue_sort], "PrioritySort", true) {
        return Err(ProfileError::Unordered(profile.name().to_owned()));
    }
    if !is_on(switches, &[&switches.bind], "DefaultBinder", true) {
        return Err(ProfileError::Unbound(profile.name().to_owned()));
    }
    Ok(())
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

/// Whether preemption stands before the plugin that lets go of claims, in the order of [`at`]. Usually it comes after it:
/// claims that nobody uses are cheaper than pods.
fn makes_room_first(switches: &Plugins) -> bool {
    let (all, here) = (&switches.multi_point, &switches.post_filter);
    let place = |set: &PluginSet, name: &str| set.enabled.iter().position(|switch| switch.name == name);
    let rank = |name: &str, usual: usize| {
        let everywhere = match all.disables(name) {
            false => Some((0, usual)),
            true => place(all, name).map(|at| (1, at)),
        };
        match (place(here, name), everywhere.filter(|_| !here.disables(name))) {
            (Some(named), Some(_)) => (0, (0, named)),
            (None, Some(rank)) => (1, rank),
            (Some(named), None) => (2, (0, named)),
            (None, None) => (3, (0, 0)),
        }
    };
    rank(PREEMPTION, 1) < rank(DEVICES, 0)
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
        Some(switch.weight.filter(|weight| *weight != 0).map_or(1, i64::from))
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
            "multiPoint": {"disabled": [{"name": "NodeUnschedulable"}]},
            "preEnqueue": {"enabled": [{"name": "DynamicResources"}]},
            "preFilter": {"disabled": [{"name": "*"}], "enabled": [{"name": "NodePorts"}, {"name": "NodeAffinity"}]},
            "filter": {
                "disabled": [{"name": "NodeName"}],
                "enabled": [{"name": "NodeName"}, {"name": "VolumeZone"}, {"name": "NodeUnschedulable"}, {"name": "NodePorts"}],
            },
        }}))
        .unwrap();
        let names: Vec<&str> = profile.plugins.iter().map(|w| w.plugin.name()).collect();
        // What is on everywhere comes first, in the order of the point; what is so there alone comes last.
        assert_eq!(names[..4], ["VolumeZone", "NodePorts", "SchedulingGates", "TaintToleration"]);
        assert_eq!(names[names.len() - 2..], ["NodeName", "NodeUnschedulable"]);
        let turns = |name: &str| find(&profile, name).unwrap().turns;
        assert_eq!((turns("DynamicResources").gates, turns("SchedulingGates").gates), (0, 1));
        assert_eq!((turns("NodePorts").prepares, turns("NodeAffinity").prepares), (0, 1));
        let usual = build(json!({})).unwrap();
        let is_usual = |(at, w): (usize, &Weighted)| w.turns == Turns { gates: at, prepares: at };
        assert!(usual.plugins.iter().enumerate().all(is_usual));
    }

    #[test]
    fn who_makes_room_first_is_a_matter_of_order() {
        let first = |plugins: Value| build(json!({"plugins": plugins})).unwrap().makes_room_first;
        let (room, claims) = (json!({"name": PREEMPTION}), json!({"name": DEVICES}));
        assert!(!first(json!({})));
        assert!(first(json!({"postFilter": {"enabled": [room, claims]}})));
        assert!(first(json!({"postFilter": {"enabled": [room]}})), "what is named comes first");
        assert!(!first(json!({"postFilter": {"disabled": [room], "enabled": [room]}})), "it comes last then");
        assert!(first(json!({"multiPoint": {"disabled": [claims], "enabled": [claims]}})));
        assert!(!first(json!({"multiPoint": {"enabled": [room, claims]}})), "they keep their places");
        assert!(first(json!({"postFilter": {"disabled": [claims]}})), "nobody else is asked");
        assert!(!first(json!({"postFilter": {"disabled": [room]}})), "it is not asked at all");
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
        assert_eq!(build(twice).unwrap_err(), "plugin \"NodeName\" already registered as \"FilterPlugin\"");
    }

    #[test]
    fn what_cannot_be_is_told() {
        let table = [
            (
                json!({"plugins": {"filter": {"enabled": [{"name": "X"}]}}}),
                "FilterPlugin \"X\" does not exist",
            ),
            (
                json!({"plugins": {"multiPoint": {"enabled": [{"name": "X"}]}}}),
                "PreFilterPlugin \"X\" does not exist",
            ),
            (
                json!({"plugins": {"score": {"enabled": [{"name": "NodeName"}]}}}),
                "plugin \"NodeName\" does not extend ScorePlugin plugin",
            ),
            (
                json!({"plugins": {"bind": {"disabled": [{"name": "*"}]}}}),
                "at least one bind plugin is needed for profile with scheduler name \"default-scheduler\"",
            ),
            (
                json!({"plugins": {"multiPoint": {"disabled": [{"name": "PrioritySort"}]}}}),
                "only one queue sort plugin required for profile with scheduler name \"default-scheduler\", but got 0",
            ),
            (
                json!({"plugins": {"multiPoint": {"enabled": [{"name": "ImageLocality"}, {"name": "ImageLocality"}]}}}),
                "plugin \"ImageLocality\" already registered as \"ScorePlugin\"",
            ),
        ];
        for (profile, expected) in table {
            assert_eq!(build(profile).unwrap_err(), expected);
        }
        let elsewhere = json!({"pluginConfig": [{"name": "Elsewhere", "args": {"x": 1}}]});
        assert!(build(elsewhere).is_ok(), "arguments of who is not here are nobody's");
        let off = json!({"plugins": {"multiPoint": {"disabled": [{"name": "InterPodAffinity"}]}},
            "pluginConfig": [{"name": "InterPodAffinity", "args": {"hardPodAffinityWeight": 101}}]});
        assert!(
            build(off).unwrap_err().contains("not in valid range [0, 100]"),
            "it is checked all the same"
        );
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
