//! ClusterTrustBundleAttest: who writes a bundle of a signer's certificates needs the verb `attest` on that signer.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Parts, Plugin, Request, certificate_approval, text};
use crate::{auth::Authorizer, authz::rbac::escalation::only_owners_differ, status::Status};

pub(super) const NAME: &str = "ClusterTrustBundleAttest";

struct ClusterTrustBundleAttest {
    authorizer: Arc<dyn Authorizer>,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(ClusterTrustBundleAttest { authorizer: parts.authorizer.clone() })
}

#[async_trait]
impl Plugin for ClusterTrustBundleAttest {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let (group, plural) = (request.resource.group, request.resource.plural);
        if (group, plural) != ("certificates.k8s.io", "clustertrustbundles") {
            return Ok(());
        }
        let Some(bundle) = request.object.as_deref() else { return Ok(()) };
        // That the signer stays the same is validation's to see to.
        let signer = text(bundle, "/spec/signerName");
        if signer.is_empty() || request.old.is_some_and(|old| only_owners_differ(bundle, old)) {
            return Ok(());
        }
        if certificate_approval::may(&*self.authorizer, request.attributes, "attest", signer).await {
            return Ok(());
        }
        Err(request.forbid(format!("user not permitted to attest for signerName {signer:?}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        admission::testing::{Write, configured, parts},
        auth::{Attributes, Decision},
        objects::{Kind, memory::Memory},
    };

    const BUNDLES: Kind = Kind { group: "certificates.k8s.io", resource: "clustertrustbundles" };

    /// Allows to attest for all signers of one domain.
    struct Domain;

    #[async_trait]
    impl Authorizer for Domain {
        async fn authorize(&self, asked: &Attributes) -> Decision {
            let yes = asked.verb == "attest" && asked.resource == "signers" && asked.name == "example.com/*";
            if yes { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
        }
    }

    #[tokio::test]
    async fn bundles_of_signers_need_their_permission() {
        let bundle = |signer: &str, text: &str| json!({"metadata": {"name": "b"}, "spec": {"signerName": signer, "trustBundle": text}});
        let owned =
            json!({"metadata": {"name": "b", "finalizers": ["a/b"]}, "spec": bundle("o.org/s", "t")["spec"]});
        let chain = |authorizer: Arc<dyn Authorizer>| {
            let parts = parts(Memory::with(Vec::new()), authorizer);
            let others = crate::admission::PLUGINS.iter().map(|(name, ..)| (*name).to_owned());
            let others: Vec<String> = others.filter(|name| name != NAME).collect();
            crate::admission::chain(&parts, &[NAME.to_owned()], &others, &Default::default()).unwrap()
        };
        let chain = chain(Arc::new(Domain));
        for (write, allowed) in [
            (Write::create(BUNDLES, bundle("", "t")), true),
            (Write::create(BUNDLES, bundle("example.com/s", "t")), true),
            (Write::create(BUNDLES, bundle("o.org/s", "t")), false),
            (Write::update(BUNDLES, bundle("o.org/s", "t"), bundle("o.org/s", "u")), false),
            (Write::update(BUNDLES, bundle("o.org/s", "t"), owned), true),
        ] {
            let shown = write.object.clone();
            let outcome = write.through_chain(&chain).await;
            assert_eq!(outcome.is_ok(), allowed, "{shown}: {outcome:?}");
        }
        let nobody = configured(&[NAME], &Default::default()).unwrap();
        let refused = Write::create(BUNDLES, bundle("a.b/s", "t")).through_chain(&nobody).await.unwrap_err();
        assert!(refused.message.contains("user not permitted to attest for signerName \"a.b/s\""));
    }
}
