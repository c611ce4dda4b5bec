//! Reviews against an API server that knows one token and one permission.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;

use super::*;

/// Counts the reviews it answers.
fn server() -> (kube::Client, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        counter.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await?.to_bytes();
            let mut review: serde_json::Value = serde_json::from_slice(&body)?;
            review["status"] = if path.ends_with("tokenreviews") {
                let known = review["spec"]["token"] == "good";
                let user = serde_json::json!({"username": "prometheus", "groups": ["monitoring"]});
                serde_json::json!({"authenticated": known, "user": user})
            } else {
                let allowed = review["spec"]["user"] == "prometheus"
                    && review["spec"]["nonResourceAttributes"]["path"] == "/metrics";
                serde_json::json!({"allowed": allowed, "reason": "RBAC"})
            };
            let body = Body::from(serde_json::to_vec(&review)?);
            Ok::<_, tower::BoxError>(Response::builder().status(201).body(body)?)
        }) as futures::future::BoxFuture<'static, Result<Response<Body>, tower::BoxError>>
    });
    (kube::Client::new(service, "default"), count)
}

fn parts(path: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn user(authentication: Authentication) -> User {
    match authentication {
        Authentication::User(user) => user,
        Authentication::Refused => panic!("refused"),
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_and_access_are_reviewed_once_per_ttl() {
    let (client, count) = server();
    let auth = Delegated::with_client(AuthOptions::default(), client).unwrap();
    let metrics = parts("/metrics", &[("authorization", "Bearer good")]);
    let prometheus = user(auth.authenticate(&metrics, &[]).await);
    assert_eq!(prometheus.name, "prometheus");
    assert_eq!(prometheus.groups, ["monitoring", "system:authenticated"]);
    assert_eq!(auth.authorize(&prometheus, &Attributes::path(&metrics)).await, Authorization::Allowed);
    assert_eq!(user(auth.authenticate(&metrics, &[]).await), prometheus);
    assert_eq!(auth.authorize(&prometheus, &Attributes::path(&metrics)).await, Authorization::Allowed);
    assert_eq!(count.load(Ordering::SeqCst), 2, "the second round came from memory");
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(auth.authorize(&prometheus, &Attributes::path(&metrics)).await, Authorization::Allowed);
    assert_eq!(count.load(Ordering::SeqCst), 3);

    let configz = parts("/configz", &[]);
    let refused = auth.authorize(&prometheus, &Attributes::path(&configz)).await;
    assert_eq!(refused, Authorization::Refused("RBAC".into()));
    let forged = parts("/metrics", &[("authorization", "Bearer bad")]);
    assert_eq!(auth.authenticate(&forged, &[]).await, Authentication::Refused);
}

#[tokio::test]
async fn without_clients_only_open_paths_are_allowed() {
    let mut options = AuthOptions::default();
    options.always_allow.push("/public/*".to_owned());
    let auth = Delegated::new(options.clone(), "test").await.unwrap();
    let anonymous = user(auth.authenticate(&parts("/healthz", &[]), &[]).await);
    assert_eq!(anonymous, User::anonymous());
    for (path, allowed) in
        [("/healthz", true), ("/public/a/b", true), ("/healthz/ping", false), ("/metrics", false)]
    {
        let outcome = auth.authorize(&anonymous, &Attributes::path(&parts(path, &[]))).await;
        assert_eq!(outcome == Authorization::Allowed, allowed, "{path}");
    }
    // Headers of a front proxy mean nothing without its certificate.
    let spoofed = parts("/healthz", &[("x-remote-user", "admin"), ("x-remote-group", "system:masters")]);
    assert_eq!(user(auth.authenticate(&spoofed, &[]).await), User::anonymous());
    let closed = Delegated::new(AuthOptions { anonymous: false, ..options }, "test").await.unwrap();
    assert_eq!(closed.authenticate(&spoofed, &[]).await, Authentication::Refused);
}

#[tokio::test(start_paused = true)]
async fn authorities_are_read_again_when_their_file_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.crt");
    let authority = || rcgen::generate_simple_self_signed(["someone".to_owned()]).unwrap().cert.pem();
    std::fs::write(&path, authority()).unwrap();
    let roots = Roots::load(path.clone(), true).unwrap();
    let kept = Roots::load(path.clone(), false).unwrap();
    let count = || roots.now().len();
    let write = |text: &str, hours: u64| {
        std::fs::write(&path, text).unwrap();
        let later = SystemTime::now() + Duration::from_secs(3600 * hours);
        std::fs::File::open(&path).unwrap().set_modified(later).unwrap();
    };
    write(&(authority() + &authority()), 1);
    assert_eq!(count(), 1, "it is looked at once a minute");
    tokio::time::advance(LOOK).await;
    assert_eq!((count(), kept.now().len()), (2, 1));
    write("-----BEGIN CERTIFICATE-----\nno\n", 2);
    tokio::time::advance(LOOK).await;
    assert_eq!(count(), 2, "what does not read changes nothing");
}
