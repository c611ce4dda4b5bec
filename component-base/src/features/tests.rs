use super::*;
use crate::flags::{FlagSet, Parsed};

fn gates(pairs: &[&str]) -> Result<Gates, String> {
    Gates::parse(pairs).map_err(|errors| errors.to_string())
}

#[test]
fn gates_are_as_upstream_has_them_unless_said_otherwise() {
    let all = gates(&[]).unwrap();
    assert_eq!(all, Gates::default());
    assert!(all.has(Gate::WatchList) && !all.has(Gate::GenericWorkload) && all.has(Gate::WinDSR));
    let switched = gates(&["GenericWorkload=true", " WatchList = f "]).unwrap();
    assert!(switched.has(Gate::GenericWorkload) && !switched.has(Gate::WatchList));
    assert_eq!(format!("{switched:?}"), r#"{"GenericWorkload": true, "WatchList": false}"#);
    let last = gates(&["kube:HPAScaleToZero=true", "kube:HPAScaleToZero=false", ""]).unwrap();
    assert_eq!(last, Gates::default());
}

#[test]
fn all_of_a_stage_are_switched_but_those_that_are_named() {
    let alpha = gates(&["AllAlpha=true", "HPAScaleToZero=false"]).unwrap();
    assert!(alpha.has(Gate::MemoryQoS) && alpha.has(Gate::AllAlpha) && !alpha.has(Gate::HPAScaleToZero));
    assert!(!alpha.has(Gate::ClusterTrustBundle), "beta stays as it was");
    let beta = gates(&["WatchList=true", "AllBeta=false"]).unwrap();
    assert!(beta.has(Gate::WatchList) && !beta.has(Gate::NodeDeclaredFeatures));
    let beta = gates(&["AllBeta=true"]).unwrap();
    assert!(beta.has(Gate::ClusterTrustBundle) && beta.has(Gate::WatchList) && !beta.has(Gate::MemoryQoS));
}

#[test]
fn what_cannot_be_switched_is_said_in_upstreams_words() {
    for (pairs, why) in [
        (&["Nothing=true"][..], "unrecognized feature gate: Nothing"),
        (&["WatchList"], "missing bool value for WatchList"),
        (
            &["WatchList=maybe"],
            "invalid value of WatchList=maybe, err: strconv.ParseBool: parsing \"maybe\": invalid syntax",
        ),
        (&["WinDSR=false"], "cannot set feature gate WinDSR to false, feature is locked to true"),
        (&["other:WatchList=true"], "component not registered: other"),
        (
            &["kube:WatchList=true", "WatchList=true"],
            "set kube feature gates with default empty prefix or kube: prefix consistently, do not mix use",
        ),
        (
            &["WorkloadWithJob=true"],
            "WorkloadWithJob is enabled, but depends on features that are disabled: [GenericWorkload]",
        ),
        (
            &["A=true", "GitRepoVolumeDriver=true"],
            "[unrecognized feature gate: A, cannot set feature gate GitRepoVolumeDriver to true, feature is locked \
             to false]",
        ),
    ] {
        assert_eq!(gates(pairs).unwrap_err(), why);
    }
    assert!(gates(&["WinDSR=true"]).is_ok(), "as it is anyway");
}

#[test]
fn a_daemon_refuses_what_it_reads_and_cannot_switch() {
    let check = |pairs: &[&str], switch: &'static [Gate]| {
        let switches = Switches { program: "kube-test", reader: Reader::Api, gates: switch };
        let all = FlagSet::new("test", "Test.", []).with(Switches::flag());
        let Parsed::Run(values) = all.parse([format!("--feature-gates={}", pairs.join(","))]).unwrap() else {
            panic!("{pairs:?}");
        };
        let pairs = pairs.iter().filter_map(|pair| pair.split_once('='));
        let of_file = switches.of(&pairs.map(|(name, on)| (name.to_owned(), on == "true")).collect());
        let of_flag = switches.read(&values);
        assert_eq!(of_flag, of_file);
        of_flag.map(drop).map_err(|errors| errors.to_string())
    };
    assert_eq!(check(&["MemoryQoS=true"], &[]), Ok(()), "the kubelet's alone");
    assert_eq!(check(&["HPAScaleToZero=true"], &[Gate::HPAScaleToZero]), Ok(()));
    assert_eq!(
        check(&["HPAScaleToZero=true"], &[]).unwrap_err(),
        "cannot set feature gate HPAScaleToZero to true: this kube-test has it off only"
    );
    assert_eq!(
        check(&["WatchList=false"], &[]).unwrap_err(),
        "cannot set feature gate WatchList to false: this kube-test has it on only"
    );
    assert_eq!(
        check(&["NativeHistograms=true"], &[]).unwrap_err(),
        "cannot set feature gate NativeHistograms to true: this kube-test has it off only, as metrics are shown as text, \
         which has no native histograms"
    );
    assert_eq!(check(&["LoggingAlphaOptions=true", "LoggingBetaOptions=false"], &[]), Ok(()));
    let scheduler = Switches { program: "kube-test", reader: Reader::Scheduler, gates: &[] };
    let said = |gate: &str| [(gate.to_owned(), false)].into();
    assert!(scheduler.of(&said("WatchListClient")).is_ok(), "there is nothing to switch");
    assert!(scheduler.of(&said("SchedulerAsyncPreemption")).is_err());
}

#[test]
fn the_table_holds_together() {
    for (i, feature) in ALL.iter().enumerate() {
        assert_eq!((feature.gate as usize, Gate::of(feature.name)), (i, Some(feature.gate)));
        let is_off = |needed: &&Gate| feature.default && !needed.feature().default;
        assert_eq!(feature.needs.iter().find(is_off), None, "{feature:?} is on without what it needs");
        assert!(feature.stage != Stage::Alpha || !feature.default, "{feature:?}");
    }
    assert_eq!(Gates::default().unmet(), []);
    for (gate, why) in ONE_WAY {
        assert!(!gate.feature().locked && gate.feature().readers.len() > 1 && !why.is_empty(), "{gate}");
    }
}

#[test]
fn gates_are_told_by_a_metric() {
    show(Gates::default().with(Gate::GenericWorkload, true));
    let text = String::from_utf8(metrics::encode().unwrap()).unwrap();
    for line in [
        "# HELP kubernetes_feature_enabled [BETA] This metric records",
        "kubernetes_feature_enabled{name=\"GenericWorkload\",stage=\"ALPHA\"} 1",
        "kubernetes_feature_enabled{name=\"ClusterTrustBundle\",stage=\"BETA\"} 0",
        "kubernetes_feature_enabled{name=\"WinDSR\",stage=\"\"} 1",
    ] {
        assert!(text.contains(line), "{line}");
    }
    assert!(help().contains("\nWatchList=true|false (BETA - default=true)") && !help().contains("WinDSR"));
}
