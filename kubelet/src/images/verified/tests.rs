//! Who may use an image that is there, by every policy, and what is left on disk of it.

use super::*;

const IMAGE: &str = "registry.example:5000/team/app:1";
const NAME: &str = "registry.example:5000/team/app";
const REFERENCE: &str = "sha256:0123";

fn secret(name: &str, hash: &str) -> PullSecret {
    PullSecret {
        namespace: "ns".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        credential_hash: hash.into(),
    }
}

fn from(secrets: &[PullSecret]) -> Vec<Credential> {
    let one = |secret: &PullSecret| Credential {
        auth: cri::AuthConfig::default(),
        origin: Origin::Secret(secret.clone()),
    };
    secrets.iter().map(one).collect()
}

fn at(seconds: i64) -> Timestamp {
    crate::testing::at(seconds)
}

struct Node {
    dir: tempfile::TempDir,
    records: Records,
}

fn node(policy: Policy) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::new(dir.path(), policy).unwrap();
    Node { dir, records }
}

impl Node {
    fn pull(&self, image: &str, with: &Origin) {
        self.records.pulling(image).unwrap();
        self.records.pulled(image, REFERENCE, with, at(0));
    }
    fn must_pull(&self, secrets: &[PullSecret]) -> bool {
        self.records.must_pull(IMAGE, REFERENCE, &from(secrets), at(1))
    }
    fn files(&self, folder: &str) -> usize {
        fs::read_dir(self.dir.path().join(FOLDER).join(folder)).unwrap().count()
    }
    fn record(&self) -> Pulled {
        self.records.pulled_record(REFERENCE).unwrap().unwrap()
    }
}

#[test]
fn policies_differ_in_images_that_others_brought() {
    let listed = |list: &[&str]| {
        let list: Vec<String> = list.iter().map(|p| (*p).to_owned()).collect();
        Policy::named("NeverVerifyAllowlistedImages", &list).unwrap()
    };
    for (policy, preloaded, pulled) in [
        (Policy::named("NeverVerify", &[]).unwrap(), false, false),
        (Policy::named("", &[]).unwrap(), false, true),
        (Policy::named("NeverVerifyPreloadedImages", &[]).unwrap(), false, true),
        (Policy::named("AlwaysVerify", &[]).unwrap(), true, true),
        (listed(&[]), true, true),
        (listed(&[NAME]), false, false),
        (listed(&["registry.example:5000/*"]), false, false),
        (listed(&["registry.example:5000/te/*", "registry.example:5000/team"]), true, true),
    ] {
        let node = node(policy.clone());
        assert_eq!(node.must_pull(&[]), preloaded, "{policy:?}");
        node.pull(IMAGE, &Origin::Secret(secret("a", "1")));
        assert_eq!(node.must_pull(&[]), pulled, "{policy:?}");
    }
}

#[test]
fn policies_that_make_no_sense_are_refused() {
    assert_eq!(Policy::named("Sometimes", &[]), Err(PolicyError::Unknown("Sometimes".into())));
    assert_eq!(Policy::named("NeverVerify", &["a".into()]), Err(PolicyError::List));
    for bad in ["", "*", "/*", "a*", "a/*/b", " a", "a:1", "a@sha256:0", "a/**"] {
        let named = Policy::named("NeverVerifyAllowlistedImages", &[bad.to_owned()]);
        assert!(matches!(named, Err(PolicyError::Pattern(..))), "{bad:?} {named:?}");
    }
}

#[test]
fn only_those_with_the_credentials_may_use_it() {
    let node = node(Policy::default());
    node.pull(IMAGE, &Origin::Secret(secret("a", "1")));
    assert!(node.must_pull(&[]));
    assert!(node.must_pull(&[secret("b", "2")]));
    assert!(!node.must_pull(&[secret("b", "2"), secret("a", "1")]));
    // The same credentials in another secret, and other ones in the same secret, are as good from now on.
    assert!(!node.must_pull(&[secret("c", "1")]));
    assert!(!node.must_pull(&[secret("a", "3")]));
    assert_eq!(
        node.record().credential_mapping[NAME].kubernetes_secrets,
        [secret("a", "3"), secret("c", "1")]
    );
    assert!(!node.must_pull(&[secret("d", "3")]));
    assert!(
        node.records.must_pull("other.example/app", REFERENCE, &from(&[secret("a", "3")]), at(1)),
        "another name"
    );
    node.pull("registry.example:5000/team/app@sha256:77", &Origin::Node);
    assert!(!node.must_pull(&[]), "the node's own credentials are everybody's");
    assert!(node.record().credential_mapping[NAME].kubernetes_secrets.is_empty());
}

#[test]
fn records_are_upstreams_and_damaged_ones_are_not_trusted() {
    let node = node(Policy::default());
    node.pull(IMAGE, &Origin::Secret(secret("a", "1")));
    assert_eq!((node.files("pulled"), node.files("pulling")), (1, 0));
    let path = node.records.path("pulled", REFERENCE);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(
        text,
        format!(
            "{{\"kind\":\"ImagePulledRecord\",\"apiVersion\":\"kubelet.config.k8s.io/v1beta1\",\
             \"lastUpdatedTime\":\"{}\",\"imageRef\":\"sha256:0123\",\"credentialMapping\":{{\"{NAME}\":\
             {{\"kubernetesSecrets\":[{{\"namespace\":\"ns\",\"name\":\"a\",\"uid\":\"uid-a\",\
             \"credentialHash\":\"1\"}}]}}}}}}",
            at(0)
        )
    );
    for bad in ["", "{", &text[..text.len() / 2], "[]", "{\"imageRef\": 7}"] {
        fs::write(&path, bad).unwrap();
        assert!(node.must_pull(&[secret("a", "1")]), "{bad:?}");
    }
    fs::write(&path, text.replace("0123", "0124")).unwrap();
    assert!(!node.must_pull(&[]), "the record is of another image, so this one was not pulled");
    node.pull(IMAGE, &Origin::Secret(secret("a", "1")));
    assert!(!node.must_pull(&[secret("a", "1")]), "it is written anew");
}

#[test]
fn a_pull_whose_end_nobody_saw_is_the_kubelets() {
    let node = node(Policy::default());
    node.records.pulling(IMAGE).unwrap();
    node.records.pulling(IMAGE).unwrap();
    node.records.failed(IMAGE);
    assert!(node.must_pull(&[]), "the other one goes on");
    // The kubelet was killed then.
    let after = Records::new(node.dir.path(), Policy::default()).unwrap();
    assert!(after.has_intents());
    assert!(after.must_pull(IMAGE, REFERENCE, &[], at(1)));
    let image = cri::Image { id: REFERENCE.into(), repo_tags: vec![IMAGE.into()], ..cri::Image::default() };
    after.recover(&[image], at(2));
    assert!(!after.has_intents());
    assert!(after.must_pull(IMAGE, REFERENCE, &from(&[secret("a", "1")]), at(3)), "nobody knows whose it is");
    node.records.failed(IMAGE);
    assert_eq!(node.files("pulling"), 0);
}

#[test]
fn records_go_with_their_images() {
    let node = node(Policy::default());
    node.pull(IMAGE, &Origin::Node);
    node.records.prune(|_| false, at(0));
    node.records.prune(|reference| reference == REFERENCE, at(9));
    assert_eq!(node.files("pulled"), 1, "it is new, or its image is there");
    node.records.prune(|_| false, at(9));
    assert_eq!(node.files("pulled"), 0);
    assert!(!node.must_pull(&[]));
}

#[test]
fn names_lose_tag_and_digest() {
    for (image, name) in [
        ("busybox", Some("busybox")),
        ("busybox:1", Some("busybox")),
        ("reg:5000/a", Some("reg:5000/a")),
        ("reg:5000/a:1@sha256:00", Some("reg:5000/a")),
        ("", None),
        (":1", None),
        ("a b", None),
        ("reg/", None),
    ] {
        assert_eq!(untagged(image), name, "{image:?}");
    }
}
