//! Devices that stand for an extended resource, as far as scores count them: all of a class that a node reaches, whether
//! they could be given or not (KEP-5004).

use std::collections::BTreeSet;

use component_base::features::Gate;
use k8s_openapi::api::resource::v1::{Device, ResourceSlice};

use super::{
    allocation::{domains_of, held, reaches},
    selector::{Maker, Selectors},
};
use crate::model::{Devices, NodeInfo};

/// The devices that stand for a resource, each with whether a claim has it, or some of it.
pub(in crate::plugins) struct Backing<'a>(Vec<(&'a ResourceSlice, &'a Device, bool)>);

impl<'a> Backing<'a> {
    /// Those of a resource; none where no class stands for it, or its selectors do not work.
    pub(in crate::plugins) fn new(resource: &str, devices: &'a Devices) -> Option<Self> {
        let class = devices.class_for(resource)?;
        let selectors = class.spec.selectors.as_deref().unwrap_or_default();
        let selectors = Selectors::compile(selectors, resource, devices.has(Gate::DRAListTypeAttributes));
        let (maker, held) = (Maker::new(devices), held(devices));
        let all = devices.slices().flat_map(|slice| {
            let of = |device| domains_of(&slice.spec.driver, device);
            slice.spec.devices.iter().flatten().flat_map(of)
        });
        let domains: Vec<String> = all.collect::<BTreeSet<_>>().into_iter().collect();
        let mut out = Vec::new();
        for slice in devices.slices() {
            let (driver, pool) = (&slice.spec.driver, &slice.spec.pool.name);
            for device in slice.spec.devices.iter().flatten() {
                if selectors.select(&maker.device(driver, device, &domains)).ok()? {
                    out.push((&**slice, device, held.has(driver, pool, &device.name)));
                }
            }
        }
        Some(Self(out))
    }

    /// How many a node reaches, and how many of those somebody has.
    pub(in crate::plugins) fn on(&self, node: &NodeInfo) -> (i64, i64) {
        let here = self.0.iter().filter(|(slice, device, _)| reaches(slice, device, node));
        here.fold((0, 0), |(have, used), (_, _, held)| (have + 1, used + i64::from(*held)))
    }
}
