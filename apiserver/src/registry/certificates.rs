//! Resources of the group certificates.k8s.io, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod certificatesigningrequests;
mod clustertrustbundles;
mod csr_rules;
mod pem;
mod podcertificaterequests;
mod possession;
#[cfg(test)]
mod tests;

pub(crate) use self::csr_rules::USAGES;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![
        certificatesigningrequests::resource(),
        clustertrustbundles::resource(),
        podcertificaterequests::resource(),
    ]
}
