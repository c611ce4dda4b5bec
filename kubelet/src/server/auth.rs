//! Who calls, and whether they may, by component-base's delegated authentication and authorization.
//!
//! Contract: "Kubelet authentication/authorization"; texts of refusals as upstream's.

use component_base::auth::{Attributes, Authentication, Authorization, Delegated};
use http::{Response, StatusCode, request::Parts};
use rustls::pki_types::CertificateDer;

use super::{Body, answer, attributes};

const PLAIN: &str = "text/plain; charset=utf-8";

/// Lets requests in or answers them.
#[derive(Debug)]
pub struct Gate {
    /// The node that requests are about.
    pub node: String,
    /// Reviews by the API server; `None` in a standalone kubelet, which knows no callers.
    pub delegated: Option<Delegated>,
    /// Every caller who is known may do all (`AlwaysAllow`).
    pub open: bool,
    /// Callers without credentials are let in.
    pub anonymous: bool,
}

impl Gate {
    /// Lets the request in, or answers it.
    ///
    /// # Errors
    /// The answer: 401, 403, or 500 when the API server cannot be asked.
    pub async fn check(
        &self,
        parts: &Parts,
        chain: &[CertificateDer<'static>],
    ) -> Result<(), Box<Response<Body>>> {
        let refuse = |code: StatusCode, text: String| Err(Box::new(answer(code, PLAIN, text)));
        let unknown = || refuse(StatusCode::UNAUTHORIZED, "Unauthorized".to_owned());
        let Some(delegated) = &self.delegated else {
            return if self.anonymous && self.open { Ok(()) } else { unknown() };
        };
        let Authentication::User(user) = delegated.authenticate(parts, chain).await else { return unknown() };
        if self.open {
            return Ok(());
        }
        let verb = attributes::verb(&parts.method);
        let subresources = attributes::subresources(parts.uri.path());
        let about = format!(
            "(user={}, verb={verb}, resource=nodes, subresource(s)=[{}])",
            user.name,
            subresources.join(" ")
        );
        for subresource in subresources {
            let wanted = Attributes::Resource {
                verb: verb.to_owned(),
                group: String::new(),
                version: "v1".to_owned(),
                resource: "nodes".to_owned(),
                subresource: subresource.to_owned(),
                namespace: String::new(),
                name: self.node.clone(),
            };
            match delegated.authorize(&user, &wanted).await {
                Authorization::Allowed => return Ok(()),
                Authorization::Refused(_) => {}
                Authorization::Unknown(why) => {
                    tracing::error!(user = user.name, why, "authorization error");
                    return refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("Authorization error {about}"));
                }
            }
        }
        refuse(StatusCode::FORBIDDEN, format!("Forbidden {about}\n"))
    }
}
