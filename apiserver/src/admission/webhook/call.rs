//! One call of one webhook for one write.

use component_base::traces;
use serde_json::Value;

use super::{
    Failure,
    hook::Hook,
    matching,
    review::{self, Notes, Shown},
};
use crate::{admission::Request, status::Status, webhook::Clients};

/// Asks a webhook; the patch it wants, if any.
pub(super) async fn call(
    clients: &Clients,
    hook: &Hook,
    request: &Request<'_>,
    shown: &Shown,
    version: &str,
    mutating: bool,
) -> (Notes, Result<Option<Vec<u8>>, Failure>) {
    let mut span = traces::call(if mutating { "Call mutating webhook" } else { "Call validating webhook" });
    if let Some(span) = &mut span {
        span.note("configuration", &hook.configuration);
        span.note("webhook", &hook.name);
        span.note("operation", matching::word(request.operation));
    }
    match ask(clients, hook, request, shown, version).await {
        Ok((uid, review, answer)) => review::read(&answer, &uid, review, &hook.name, mutating),
        Err(failure) => (Notes::default(), Err(failure)),
    }
}

async fn ask(
    clients: &Clients,
    hook: &Hook,
    request: &Request<'_>,
    shown: &Shown,
    version: &str,
) -> Result<(String, &'static str, Value), Failure> {
    if request.dry_run && !hook.can_dry_run {
        let why = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(Failure::Server(Status::bad_request(why)));
    }
    let review = hook.review.ok_or_else(|| Failure::Calling {
        code: 400,
        why: "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)"
            .to_owned(),
    })?;
    let config = hook.client.as_ref().ok_or_else(|| Failure::Calling {
        code: 500,
        why: "could not get REST client: webhook configuration must have either service or URL".to_owned(),
    })?;
    let uid = uuid::Uuid::new_v4().to_string();
    let question = review::ask(&uid, review, request, shown, version);
    let answer = clients.post(config, &question, hook.timeout).await?;
    Ok((uid, review, answer))
}
