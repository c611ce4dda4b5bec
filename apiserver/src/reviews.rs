//! Resources that are questions: reviews and token requests, answered instead of stored.
//!
//! One row per resource in [`all`]. Contract: authentication.k8s.io/v1, authorization.k8s.io/v1.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;

use crate::{
    auth::{Attributes, Authorizer},
    authn::{Authentication, issue::Issuer, review::self_subject_review},
    authz::review::{Review, access_review, rules_review},
    engine::VirtualResource,
    object::Object,
    status::{GroupName, Reason, Status},
};

/// Virtual resources by group and `resource` or `resource/subresource`.
pub type Virtuals = HashMap<(&'static str, &'static str), Arc<dyn VirtualResource>>;

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// All of them. Without a signing key, token requests are answered with 404, as upstream does.
pub fn all(authentication: &Arc<Authentication>, authorizer: &Arc<dyn Authorizer>) -> Virtuals {
    let review = |kind: Kind| -> Arc<dyn VirtualResource> {
        Arc::new(AccessReview { kind, authorizer: authorizer.clone() })
    };
    let token: Arc<dyn VirtualResource> = Arc::new(TokenRequest(authentication.issuer.clone()));
    let token_review: Arc<dyn VirtualResource> = Arc::new(TokenReview(authentication.clone()));
    let own: Arc<dyn VirtualResource> = Arc::new(SelfSubject);
    HashMap::from([
        (("", "serviceaccounts/token"), token),
        ((AUTHENTICATION, "tokenreviews"), token_review),
        ((AUTHENTICATION, "selfsubjectreviews"), own),
        ((AUTHORIZATION, "subjectaccessreviews"), review(Kind::Subject)),
        ((AUTHORIZATION, "localsubjectaccessreviews"), review(Kind::Local)),
        ((AUTHORIZATION, "selfsubjectaccessreviews"), review(Kind::Own)),
        ((AUTHORIZATION, "selfsubjectrulesreviews"), review(Kind::Rules)),
    ])
}

enum Kind {
    Subject,
    Local,
    Own,
    Rules,
}

struct AccessReview {
    kind: Kind,
    authorizer: Arc<dyn Authorizer>,
}

struct TokenReview(Arc<Authentication>);

struct SelfSubject;

struct TokenRequest(Option<Arc<Issuer>>);

#[async_trait]
impl VirtualResource for AccessReview {
    async fn create(
        &self,
        attributes: &Attributes,
        object: Object,
        _warnings: &mut Vec<String>,
    ) -> Result<Object, Status> {
        let which = match self.kind {
            Kind::Subject => Review::Subject,
            Kind::Local => Review::Local(&attributes.namespace),
            Kind::Own => Review::Own(&attributes.user),
            Kind::Rules => return rules_review(&*self.authorizer, object, &attributes.user).await,
        };
        access_review(&*self.authorizer, object, which).await
    }
}

#[async_trait]
impl VirtualResource for TokenReview {
    async fn create(
        &self,
        _attributes: &Attributes,
        object: Object,
        _warnings: &mut Vec<String>,
    ) -> Result<Object, Status> {
        self.0.token_review(object, Timestamp::now()).await
    }
}

#[async_trait]
impl VirtualResource for SelfSubject {
    async fn create(
        &self,
        attributes: &Attributes,
        object: Object,
        _warnings: &mut Vec<String>,
    ) -> Result<Object, Status> {
        Ok(self_subject_review(object, &attributes.user, Timestamp::now()))
    }
}

#[async_trait]
impl VirtualResource for TokenRequest {
    async fn create(
        &self,
        attributes: &Attributes,
        object: Object,
        warnings: &mut Vec<String>,
    ) -> Result<Object, Status> {
        let Some(issuer) = &self.0 else {
            let resource = GroupName::new("", "serviceaccounts/token");
            return Err(Status::new(
                404,
                Reason::NotFound,
                format!("{resource} is not served without a signing key"),
            ));
        };
        let Attributes { namespace, name, .. } = attributes;
        issuer.request(namespace, name, object, Timestamp::now(), warnings).await
    }
}
