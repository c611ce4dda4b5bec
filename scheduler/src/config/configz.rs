//! The configuration in effect, as `/configz` shows it: the file with its defaults, and what flags say in its place.
//!
//! Contract: KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1 and its defaults; upstream's name for it there.

use component_base::{
    client::ClientOptions,
    features::{Gate, Gates},
    goduration,
    leader::LeaderElection,
};
use serde_json::{Value, json};

use super::{
    API_VERSION, KIND, KubeSchedulerConfiguration, PluginConfig, PluginSet, PluginSwitch, Plugins,
    ProfileConfiguration,
};
use crate::plugins::REGISTRY;

/// What the page calls it.
pub const NAME: &str = "componentconfig";

/// What flags say.
#[derive(Clone, Copy, Debug)]
pub struct Flags<'a> {
    /// The way to the API server.
    pub client: &'a ClientOptions,
    /// The lease, if one is held.
    pub election: Option<&'a LeaderElection>,
    /// `--profiling`.
    pub profiling: bool,
    /// `--contention-profiling`.
    pub contention_profiling: bool,
    /// The gates plugins depend on.
    pub features: Gates,
}

/// The whole configuration.
pub fn configuration(file: &KubeSchedulerConfiguration, flags: Flags<'_>) -> Value {
    let none = [ProfileConfiguration::default()];
    let profiles = if file.profiles.is_empty() { &none[..] } else { &file.profiles };
    let client = flags.client;
    let profiling = file.enable_profiling.unwrap_or(flags.profiling);
    let contention = file.enable_contention_profiling.unwrap_or(flags.contention_profiling && profiling);
    let mut out = json!({
        "kind": KIND,
        "apiVersion": API_VERSION,
        "parallelism": file.parallelism.unwrap_or(16),
        "leaderElection": lease(flags.election),
        "clientConnection": {
            "kubeconfig": client.kubeconfig.as_ref().map(|path| path.to_string_lossy()).unwrap_or_default(),
            "acceptContentTypes": "",
            "contentType": client.content_type,
            "qps": client.qps,
            "burst": client.burst,
        },
        "enableProfiling": profiling,
        "enableContentionProfiling": contention,
        "percentageOfNodesToScore": file.percentage_of_nodes_to_score.unwrap_or(0),
        "podInitialBackoffSeconds": file.initial_backoff(),
        "podMaxBackoffSeconds": file.max_backoff(),
        "profiles": profiles.iter().map(|profile| whole(profile, flags.features)).collect::<Vec<_>>(),
    });
    if !file.extenders.is_empty() {
        out["extenders"] = json!(file.extenders);
    }
    if file.delay_cache_until_active == Some(true) {
        out["delayCacheUntilActive"] = json!(true);
    }
    out
}

fn lease(election: Option<&LeaderElection>) -> Value {
    let usual = LeaderElection::new("kube-scheduler", "kube-system");
    let shown = election.unwrap_or(&usual);
    json!({
        "leaderElect": election.is_some(),
        "leaseDuration": goduration::format(shown.lease_duration),
        "renewDeadline": goduration::format(shown.renew_deadline),
        "retryPeriod": goduration::format(shown.retry_period),
        "resourceLock": "leases",
        "resourceName": shown.name,
        "resourceNamespace": shown.namespace,
    })
}

/// A profile with the default plugins and arguments.
fn whole(profile: &ProfileConfiguration, features: Gates) -> Value {
    let multi_point = merged(&profile.plugins.multi_point, features);
    let names = names(&profile.plugins, &multi_point);
    let plugins = Plugins { multi_point, ..profile.plugins.clone() };
    let mut configured: Vec<Value> =
        profile.plugin_config.iter().map(|config| arguments(config, features)).collect();
    for name in names.iter().filter(|name| !profile.plugin_config.iter().any(|c| c.name == **name)) {
        if defaults(name, features).is_some() {
            configured.push(arguments(&PluginConfig { name: name.clone(), args: Value::Null }, features));
        }
    }
    let mut out = json!({"schedulerName": profile.name(), "plugins": plugins, "pluginConfig": configured});
    if let Some(share) = profile.percentage_of_nodes_to_score {
        out["percentageOfNodesToScore"] = json!(share);
    }
    out
}

/// The default plugins that are not switched off, then those that are switched on besides.
fn merged(set: &PluginSet, features: Gates) -> PluginSet {
    let default = |name: &str, weight: i64| PluginSwitch {
        name: name.to_owned(),
        weight: Some(i32::try_from(weight).unwrap_or(i32::MAX)),
    };
    let mut all = Vec::new();
    for plugin in REGISTRY.iter().filter(|plugin| plugin.is_default(features)) {
        all.push(default(plugin.name, plugin.weight));
        // Those that are no plugins here stand where upstream has them.
        match plugin.name {
            "SchedulingGates" => all.push(default("PrioritySort", 0)),
            "DynamicResources" => all.push(default("DefaultPreemption", 0)),
            "ImageLocality" => all.push(default("DefaultBinder", 0)),
            _ => {}
        }
    }
    all.retain(|plugin| !set.disables(&plugin.name));
    for plugin in &set.enabled {
        let shown = PluginSwitch { name: plugin.name.clone(), weight: Some(plugin.weight.unwrap_or(0)) };
        match all.iter_mut().find(|known| known.name == plugin.name) {
            Some(known) => *known = shown,
            None => all.push(shown),
        }
    }
    PluginSet { enabled: all, disabled: set.disabled.clone() }
}

/// All plugins that are on somewhere, in the order of their names.
fn names(plugins: &Plugins, multi_point: &PluginSet) -> Vec<String> {
    let own = plugins.points().into_iter().map(|(_, set)| set).chain([multi_point]);
    let mut out: Vec<String> = own.flat_map(|set| &set.enabled).map(|plugin| plugin.name.clone()).collect();
    out.sort();
    out.dedup();
    out
}

/// A plugin's arguments with their defaults.
fn arguments(config: &PluginConfig, features: Gates) -> Value {
    let mut args = defaults(&config.name, features).unwrap_or_else(|| json!({}));
    args["kind"] = format!("{}Args", config.name).into();
    args["apiVersion"] = API_VERSION.into();
    for (field, value) in config.args.as_object().into_iter().flatten() {
        args[field] = value.clone();
    }
    let lists = match config.name.as_str() {
        "NodeResourcesFit" => args.get_mut("scoringStrategy"),
        "NodeResourcesBalancedAllocation" => Some(&mut args),
        _ => None,
    };
    if let Some(lists) = lists.and_then(Value::as_object_mut) {
        weigh(lists.entry("resources").or_insert(Value::Null));
    }
    json!({"name": config.name, "args": args})
}

/// Completes a list of resources: the usual ones where there are none, and a weight of 1 where there is none.
fn weigh(resources: &mut Value) {
    if resources.as_array().is_none_or(Vec::is_empty) {
        *resources = usual_resources();
    }
    for resource in resources.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        if resource.get("weight").and_then(Value::as_i64).unwrap_or(0) == 0 {
            resource.insert("weight".to_owned(), 1.into());
        }
    }
}

fn usual_resources() -> Value {
    json!([{"name": "cpu", "weight": 1}, {"name": "memory", "weight": 1}])
}

/// What a plugin is told where nothing is said; none for those that have no arguments.
fn defaults(plugin: &str, features: Gates) -> Option<Value> {
    let resources = usual_resources();
    Some(match plugin {
        "DefaultPreemption" => json!({"minCandidateNodesPercentage": 10, "minCandidateNodesAbsolute": 100}),
        "DynamicResources" => {
            let mut args = json!({});
            if features.has(Gate::DRASchedulerFilterTimeout) {
                args["filterTimeout"] = "10s".into();
            }
            if features.has(Gate::DRADeviceBindingConditions)
                && features.has(Gate::DRAResourceClaimDeviceStatus)
            {
                args["bindingTimeout"] = "10m0s".into();
            }
            args
        }
        "InterPodAffinity" => {
            json!({"hardPodAffinityWeight": 1, "ignorePreferredTermsOfExistingPods": false})
        }
        "NodeAffinity" => json!({}),
        "NodeResourcesBalancedAllocation" => json!({"resources": resources}),
        "NodeResourcesFit" => json!({"scoringStrategy": {"type": "LeastAllocated", "resources": resources}}),
        "PodTopologySpread" => json!({"defaultingType": "System"}),
        "VolumeBinding" if features.has(Gate::StorageCapacityScoring) => {
            let shape = json!([{"utilization": 0, "score": 10}, {"utilization": 100, "score": 0}]);
            json!({"bindTimeoutSeconds": 600, "shape": shape})
        }
        "VolumeBinding" => json!({"bindTimeoutSeconds": 600}),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use component_base::config;

    use super::*;
    use crate::profile::DEFAULT_NAME;

    fn of(body: &str) -> Value {
        with(body, Gates::default())
    }

    fn with(body: &str, features: Gates) -> Value {
        let text = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{body}");
        let file: KubeSchedulerConfiguration = config::parse(&text, "test.yaml", API_VERSION, KIND).unwrap();
        let client = ClientOptions { qps: 50.0, burst: 100, ..ClientOptions::new("kube-scheduler") };
        let flags =
            Flags { client: &client, election: None, profiling: true, contention_profiling: true, features };
        configuration(&file, flags)
    }

    fn enabled(config: &Value) -> Vec<String> {
        let all = config["profiles"][0]["plugins"]["multiPoint"]["enabled"].as_array().unwrap();
        let text = |plugin: &Value| format!("{} {}", plugin["name"].as_str().unwrap(), plugin["weight"]);
        all.iter().map(text).collect()
    }

    #[test]
    fn defaults_are_shown() {
        let config = of("");
        for (path, expected) in [
            ("/parallelism", json!(16)),
            ("/leaderElection/leaderElect", json!(false)),
            ("/leaderElection/leaseDuration", json!("15s")),
            ("/clientConnection/qps", json!(50.0)),
            ("/podMaxBackoffSeconds", json!(10)),
            ("/profiles/0/schedulerName", json!(DEFAULT_NAME)),
            ("/profiles/0/plugins/filter", json!({})),
            ("/profiles/0/pluginConfig/0/name", json!("DefaultPreemption")),
            ("/profiles/0/pluginConfig/0/args/kind", json!("DefaultPreemptionArgs")),
            ("/profiles/0/pluginConfig/7/args/bindTimeoutSeconds", json!(600)),
        ] {
            assert_eq!(config.pointer(path), Some(&expected), "{path}");
        }
        let expected = [
            "SchedulingGates 0",
            "PrioritySort 0",
            "NodeUnschedulable 0",
            "NodeName 0",
            "TaintToleration 3",
            "NodeAffinity 2",
            "NodePorts 0",
            "NodeResourcesFit 1",
            "VolumeRestrictions 0",
            "NodeVolumeLimits 0",
            "VolumeBinding 0",
            "VolumeZone 0",
            "PodTopologySpread 2",
            "InterPodAffinity 2",
            "DynamicResources 2",
            "DefaultPreemption 0",
            "NodeResourcesBalancedAllocation 1",
            "ImageLocality 1",
            "DefaultBinder 0",
            "NodeDeclaredFeatures 0",
        ];
        assert_eq!(enabled(&config), expected);
    }

    #[test]
    fn storage_is_scored_by_a_function_where_it_is() {
        let shape = "/profiles/0/pluginConfig/7/args/shape";
        assert_eq!(of("").pointer(shape), None);
        let config = with("", Gates::default().with(Gate::StorageCapacityScoring, true));
        let usual = json!([{"utilization": 0, "score": 10}, {"utilization": 100, "score": 0}]);
        assert_eq!(config.pointer(shape), Some(&usual));
    }

    #[test]
    fn what_is_said_in_part_is_completed() {
        let args = |plugin: &str, args: &str, features| {
            let body = format!("profiles: [{{pluginConfig: [{{name: {plugin}, args: {args}}}]}}]");
            with(&body, features)["profiles"][0]["pluginConfig"][0]["args"].clone()
        };
        let usual = Gates::default();
        let strategy = args("NodeResourcesFit", "{scoringStrategy: {type: MostAllocated}}", usual);
        assert_eq!(
            strategy["scoringStrategy"],
            json!({"type": "MostAllocated", "resources": usual_resources()})
        );
        let named = "{resources: [{name: a.b/c}, {name: memory, weight: 3}]}";
        let weights = args("NodeResourcesBalancedAllocation", named, usual);
        let expected = json!([{"name": "a.b/c", "weight": 1}, {"name": "memory", "weight": 3}]);
        assert_eq!(weights["resources"], expected);
        for (gate, field) in [
            (Gate::DRASchedulerFilterTimeout, "filterTimeout"),
            (Gate::DRAResourceClaimDeviceStatus, "bindingTimeout"),
        ] {
            assert!(!args("DynamicResources", "{}", usual)[field].is_null());
            assert!(args("DynamicResources", "{}", usual.with(gate, false))[field].is_null(), "{field}");
        }
    }

    #[test]
    fn what_the_file_says_stands_in_its_place() {
        let config = of("percentageOfNodesToScore: 7\n\
             profiles: [{schedulerName: x, plugins: {multiPoint: {disabled: [{name: ImageLocality}], \
             enabled: [{name: NodeAffinity, weight: 9}]}, score: {disabled: [{name: '*'}]}}, \
             pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 3}}]}]\n\
             extenders: [{urlPrefix: http://e, filterVerb: f, tlsConfig: {keyData: c2VjcmV0}}]\n");
        let all = enabled(&config);
        assert!(
            all.contains(&"NodeAffinity 9".to_owned()) && !all.iter().any(|p| p.starts_with("ImageLocality"))
        );
        for (path, expected) in [
            ("/percentageOfNodesToScore", json!(7)),
            ("/profiles/0/plugins/score/disabled/0/name", json!("*")),
            ("/profiles/0/pluginConfig/0/args/hardPodAffinityWeight", json!(3)),
            ("/profiles/0/pluginConfig/0/args/ignorePreferredTermsOfExistingPods", json!(false)),
            ("/extenders/0/filterVerb", json!("f")),
        ] {
            assert_eq!(config.pointer(path), Some(&expected), "{path}");
        }
        assert!(!config.to_string().contains("c2VjcmV0"));
    }
}
