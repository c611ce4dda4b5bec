//! The API server over the wire: what it answers to good and bad requests, and what it survives.
//!
//! Tests of one list share a control plane and run several at a time, each in its own namespace; those of
//! [`failures`], [`audit`], [`encryption`], [`configurations`], [`cbor`], [`shards`], [`gates`], [`egress`], [`placement`],
//! [`extenders`], [`gangs`], [`roles`], [`leaders`], [`unreadable`], [`peers`], [`manifests`], [`traces`], [`metrics`], [`pages`],
//! [`devicetaints`], [`waking`], [`binding`], [`front`] and [`outside`] start their own, to break it or to have it otherwise.

mod access;
mod admission;
mod aggregation;
mod audit;
mod binding;
mod cbor;
mod configurations;
mod controllers;
mod customresources;
mod devicetaints;
mod discovery;
mod egress;
mod encryption;
mod extenders;
mod failures;
mod fairness;
mod front;
mod gangs;
mod gates;
mod input;
mod leaders;
mod lists;
mod machines;
mod manifests;
mod metrics;
mod objects;
mod outside;
mod pages;
mod patches;
mod peers;
mod placement;
mod policies;
mod roles;
mod scheduling;
mod shards;
mod traces;
mod unreadable;
mod waking;
mod webhooks;

use std::process::ExitCode;

use tests::{
    ControlPlane,
    control_plane::Options,
    runner::{Runner, Test, say, skip},
};

const LISTS: &[(&str, &[Test<ControlPlane>])] = &[
    ("input", input::TESTS),
    ("objects", objects::TESTS),
    ("patches", patches::TESTS),
    ("lists", lists::TESTS),
    ("discovery", discovery::TESTS),
    ("access", access::TESTS),
    ("webhooks", webhooks::TESTS),
    ("admission", admission::TESTS),
    ("policies", policies::TESTS),
    ("fairness", fairness::TESTS),
    ("customresources", customresources::TESTS),
    ("aggregation", aggregation::TESTS),
];

fn main() -> ExitCode {
    if let Some(why) = tests::obstacle() {
        return skip(why);
    }
    let plane = match ControlPlane::start(Options::default()) {
        Ok(plane) => plane,
        Err(error) => {
            say(&format!("{error:#}"));
            return ExitCode::FAILURE;
        }
    };
    let shared = Runner {
        subject: &plane,
        parallel: 6,
        prepare: ControlPlane::namespace,
        clean: |_, _| (),
        explain: |_, _| String::new(),
    };
    let all = LISTS.iter().map(|(name, tests)| shared.run(name, tests)).reduce(|a, b| a.and(b));
    let alone = Runner {
        subject: &(),
        parallel: 4,
        prepare: |(), _| Ok(()),
        clean: |(), _| (),
        explain: |(), _| String::new(),
    };
    let own = alone
        .run("audit", audit::TESTS)
        .and(alone.run("encryption", encryption::TESTS))
        .and(alone.run("configurations", configurations::TESTS))
        .and(alone.run("cbor", cbor::TESTS))
        .and(alone.run("shards", shards::TESTS))
        .and(alone.run("gates", gates::TESTS))
        .and(alone.run("egress", egress::TESTS))
        .and(alone.run("placement", placement::TESTS))
        .and(alone.run("extenders", extenders::TESTS))
        .and(alone.run("gangs", gangs::TESTS))
        .and(alone.run("roles", roles::TESTS))
        .and(alone.run("leaders", leaders::TESTS))
        .and(alone.run("unreadable", unreadable::TESTS))
        .and(alone.run("peers", peers::TESTS))
        .and(alone.run("manifests", manifests::TESTS))
        .and(alone.run("traces", traces::TESTS))
        .and(alone.run("metrics", metrics::TESTS))
        .and(alone.run("pages", pages::TESTS))
        .and(alone.run("devicetaints", devicetaints::TESTS))
        .and(alone.run("controllers", controllers::TESTS))
        .and(alone.run("machines", machines::TESTS))
        .and(alone.run("waking", waking::TESTS))
        .and(alone.run("binding", binding::TESTS))
        .and(alone.run("front", front::TESTS))
        .and(alone.run("outside", outside::TESTS))
        .and(alone.run("failures", failures::TESTS));
    all.unwrap_or_default().and(own).exit()
}

/// Path of config maps in a namespace, or of one of them.
fn config_maps(ns: &str, name: &str) -> String {
    let slash = if name.is_empty() { "" } else { "/" };
    format!("/api/v1/namespaces/{ns}/configmaps{slash}{name}")
}
