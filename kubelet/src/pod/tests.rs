//! Restart rules, pull policies and grace periods of pods.

use k8s_openapi::api::core::v1::Container;

use super::*;
use crate::testing::pod;

#[test]
fn restart_policy_decides_by_exit_code() {
    let cases = [
        ("Always", 0, true),
        ("Always", 1, true),
        ("OnFailure", 0, false),
        ("OnFailure", 3, true),
        ("Never", 0, false),
        ("Never", 3, false),
    ];
    for (policy, code, expected) in cases {
        let pod = pod("a").restart_policy(policy).container("c").build();
        assert_eq!(restarts_after(&pod, &containers(&pod)[0], code), expected, "{policy} {code}");
    }
}

#[test]
fn pull_policy_defaults_by_tag() {
    let cases = [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.2", "IfNotPresent"),
        ("localhost:5000/nginx", "Always"),
        ("a/b@sha256:00", "IfNotPresent"),
    ];
    for (image, expected) in cases {
        let c = Container { image: Some(image.into()), ..Container::default() };
        assert_eq!(image_pull_policy(&c), expected, "{image}");
    }
}

#[test]
fn deletion_grace_wins_over_the_specs() {
    let mut p = pod("a").container("c").build();
    assert_eq!(grace_seconds(&p), 30);
    p.spec.as_mut().unwrap().termination_grace_period_seconds = Some(7);
    assert_eq!(grace_seconds(&p), 7);
    p.metadata.deletion_grace_period_seconds = Some(0);
    assert_eq!(grace_seconds(&p), 0);
}
