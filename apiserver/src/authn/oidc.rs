//! Tokens of OpenID Connect providers, and of any issuer of JSON web tokens: who their claims say one is.
//!
//! ```text
//! token ──iss──→ issuer ──keys of its discovery document──→ claims ──rules, mappings──→ user
//! ```
//! Contract: "OpenID Connect Tokens", AuthenticationConfiguration; upstream's `plugin/pkg/authenticator/token/oidc`.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use cel_engine::{Env, Program, Type, Value as Cel, authorization};
use component_base::metrics::{self, Stability};
use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation,
    errors::ErrorKind,
    jwk::{Jwk, JwkSet},
};
use prometheus::{
    GaugeVec, HistogramVec, IntGaugeVec,
    core::{MetricVec, MetricVecBuilder},
};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use crate::{
    auth::{Authenticator, Credentials, User},
    egress::{Egress, Network, Route},
    webhook,
};

/// Keys are asked for anew at most so often, whatever tokens name.
const REFRESH: Duration = Duration::from_secs(1);
/// Time of a request to the issuer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// An issuer and what its claims mean.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `iss` of its tokens, and where its discovery document is below.
    pub url: String,
    /// Where the discovery document is instead.
    pub discovery_url: String,
    /// The network it is in, where that is said; it is reached directly if not.
    pub network: Option<Network>,
    /// Whether nothing is told of its keys.
    pub hides_keys: bool,
    /// PEM of who signs the issuer's certificate; the system's authorities when empty.
    pub ca: Vec<u8>,
    /// A token names one of these.
    pub audiences: Vec<String>,
    /// Algorithms of signatures.
    pub algorithms: Vec<String>,
    /// Claims that must have a value.
    pub required: Vec<(String, String)>,
    /// Expressions over `claims` that must be true, and what is said when they are not.
    pub claim_rules: Vec<(String, String)>,
    /// Expressions over `user` that must be true, and what is said when they are not.
    pub user_rules: Vec<(String, String)>,
    /// The user's name.
    pub username: Mapping,
    /// The user's groups.
    pub groups: Mapping,
    /// The user's uid.
    pub uid: Mapping,
    /// Extra values by key, as expressions.
    pub extra: Vec<(String, String)>,
    /// This server's identity, as metrics have it.
    pub server: String,
}

/// Where a value comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mapping {
    /// It has none.
    #[default]
    Nothing,
    /// A claim, with something in front.
    Claim {
        /// The claim's name.
        claim: String,
        /// What comes before its value.
        prefix: String,
    },
    /// An expression over `claims`.
    Expression(String),
}

/// What metrics tell of an issuer; what they told of its keys goes with it.
struct Told {
    /// Hashes of the issuer and of this server.
    labels: [String; 2],
    keys: parking_lot::Mutex<String>,
    hides_keys: bool,
}

static LATENCY: LazyLock<HistogramVec> = LazyLock::new(|| {
    metrics::histogram_vec(
        "apiserver_authentication_jwt_authenticator_latency_seconds",
        "Time of tokens of issuers until it is known whose they are, in seconds.",
        Stability::Alpha,
        &["result", "jwt_issuer_hash"],
        vec![0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0],
    )
});
static FETCHED: LazyLock<GaugeVec> = LazyLock::new(|| {
    metrics::float_gauge_vec(
        "apiserver_authentication_jwt_authenticator_jwks_fetch_last_timestamp_seconds",
        "When an issuer was last asked for its keys, by outcome.",
        Stability::Alpha,
        &["result", "jwt_issuer_hash", "apiserver_id_hash"],
    )
});
static KEY_SETS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    metrics::gauge_vec(
        "apiserver_authentication_jwt_authenticator_jwks_fetch_last_key_set_info",
        "The keys an issuer had when it was last asked, by their hash.",
        Stability::Alpha,
        &["jwt_issuer_hash", "apiserver_id_hash", "hash"],
    )
});

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

// === impl Told ===

impl Told {
    fn new(options: &Options) -> Self {
        let labels = [&options.url, &options.server].map(|text| hash(text.as_bytes()));
        Self { labels, keys: parking_lot::Mutex::default(), hides_keys: options.hides_keys }
    }

    fn authenticated(&self, good: bool, begun: Instant) {
        let result = if good { "success" } else { "failure" };
        LATENCY.with_label_values(&[result, self.labels[0].as_str()]).observe(begun.elapsed().as_secs_f64());
    }

    /// The issuer was asked for its keys: their hash, if it told them.
    fn fetched(&self, keys: Option<&str>) {
        if self.hides_keys {
            return;
        }
        let [issuer, server] = self.labels.each_ref().map(String::as_str);
        let result = if keys.is_some() { "success" } else { "failure" };
        let now = jiff::Timestamp::now().as_duration().as_secs_f64();
        FETCHED.with_label_values(&[result, issuer, server]).set(now);
        if let Some(new) = keys {
            let mut told = self.keys.lock();
            take_back(&KEY_SETS, &[issuer, server, told.as_str()]);
            KEY_SETS.with_label_values(&[issuer, server, new]).set(1);
            new.clone_into(&mut told);
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let [issuer, server] = self.labels.each_ref().map(String::as_str);
        take_back(&KEY_SETS, &[issuer, server, self.keys.lock().as_str()]);
        for result in ["success", "failure"] {
            take_back(&FETCHED, &[result, issuer, server]);
        }
    }
}

/// Shows a number no longer.
fn take_back<M: MetricVecBuilder>(of: &MetricVec<M>, labels: &[&str]) {
    // What was not told of cannot be taken back, and is not shown either.
    of.remove_label_values(labels).ok();
}

/// An issuer, its expressions compiled.
pub struct Issuer {
    options: Options,
    algorithms: Vec<Algorithm>,
    claim_rules: Vec<(Program, String)>,
    user_rules: Vec<(Program, String)>,
    username: Source,
    groups: Source,
    uid: Source,
    extra: Vec<(String, Program)>,
    route: Route,
    keys: ArcSwapOption<JwkSet>,
    asked: Mutex<Option<Instant>>,
    told: Told,
}

enum Source {
    Nothing,
    Claim(String, String),
    Expression(Program),
}

fn compile(variable: &str, source: &str) -> Result<Program, String> {
    if variable == "user" {
        return authorization::user_rule(source);
    }
    let env = Env::new().variable(variable, Type::Dyn);
    env.compile(source).map_err(|error| format!("compilation failed: {error}"))
}

impl Source {
    fn new(mapping: &Mapping) -> Result<Self, String> {
        Ok(match mapping {
            Mapping::Nothing => Self::Nothing,
            Mapping::Claim { claim, prefix } => Self::Claim(claim.clone(), prefix.clone()),
            Mapping::Expression(source) => Self::Expression(compile("claims", source)?),
        })
    }

    /// The texts it gives; none where a claim is missing.
    fn texts(&self, claims: &Value) -> Result<Option<Vec<String>>, String> {
        let (value, prefix) = match self {
            Self::Nothing => return Ok(None),
            Self::Claim(claim, prefix) => match claims.get(claim) {
                None | Some(Value::Null) => return Ok(None),
                Some(value) => (value.clone(), prefix.as_str()),
            },
            Self::Expression(program) => (evaluate(program, "claims", claims)?, ""),
        };
        let text = |value: &Value| match value {
            Value::String(text) => Ok(format!("{prefix}{text}")),
            other => Err(format!("{other} is no string")),
        };
        match &value {
            Value::Null => Ok(None),
            Value::Array(all) => all.iter().map(text).collect::<Result<_, _>>().map(Some),
            one => Ok(Some(vec![text(one)?])),
        }
    }
}

fn evaluate(program: &Program, variable: &str, value: &Value) -> Result<Value, String> {
    let result = program.eval(&[(variable, Cel::json(value))]).result.map_err(|error| error.to_string())?;
    result.to_json().ok_or_else(|| "the expression gives no value".to_owned())
}

fn hold(rules: &[(Program, String)], variable: &str, value: &Value) -> Result<(), String> {
    for (program, message) in rules {
        if evaluate(program, variable, value)? != Value::Bool(true) {
            return Err(format!("validation expression failed: {message}"));
        }
    }
    Ok(())
}

/// The claims of a token, nothing checked; `None` for what is no token of this kind.
fn unchecked(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

/// Where an issuer's keys are, by the document it describes itself with.
///
/// # Errors
/// For what is no such document, one of another issuer, and one that names no keys.
pub fn keys_of(document: &[u8], issuer: &str) -> Result<String, String> {
    let document: Value = serde_json::from_slice(document).map_err(|error| error.to_string())?;
    if document["issuer"] != issuer {
        return Err(format!("the issuer's document is of {}", document["issuer"]));
    }
    let keys = document["jwks_uri"].as_str().ok_or("the issuer's document names no keys")?;
    Ok(keys.to_owned())
}

/// The keys an issuer publishes.
///
/// # Errors
/// For what is no document of keys.
pub fn key_set(body: &[u8]) -> Result<JwkSet, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

/// The claims of a token, by the keys of its name, or all of them when it names none: nothing when no key has signed it.
pub fn verify(token: &str, header: &Header, keys: &JwkSet) -> Option<Result<Value, String>> {
    let mut validation = Validation::new(header.alg);
    validation.validate_nbf = true;
    // Audiences are checked with the claims, where several may be.
    validation.validate_aud = false;
    validation.leeway = 0;
    let named = |key: &&Jwk| header.kid.is_none() || key.common.key_id == header.kid;
    for key in keys.keys.iter().filter(named) {
        let Ok(key) = DecodingKey::from_jwk(key) else { continue };
        match jsonwebtoken::decode::<Value>(token, &key, &validation) {
            Ok(token) => return Some(Ok(token.claims)),
            Err(error) if is_of_key(error.kind()) => {}
            Err(error) => return Some(Err(format!("oidc: verify token: {error}"))),
        }
    }
    None
}

/// Whether another key may do.
fn is_of_key(error: &ErrorKind) -> bool {
    matches!(
        error,
        ErrorKind::InvalidSignature
            | ErrorKind::InvalidAlgorithm
            | ErrorKind::InvalidKeyFormat
            | ErrorKind::InvalidRsaKey(_)
            | ErrorKind::InvalidEcdsaKey
            | ErrorKind::InvalidEddsaKey
            | ErrorKind::UnsupportedAlgorithm
            | ErrorKind::Base64(_)
            | ErrorKind::Provider(_)
    )
}

impl Issuer {
    /// Compiles the expressions.
    ///
    /// # Errors
    /// What does not compile, algorithms that are none, and a network without a way to it.
    pub fn new(options: Options, egress: &Egress) -> Result<Self, String> {
        let rules = |variable: &str, all: &[(String, String)]| -> Result<Vec<(Program, String)>, String> {
            let one =
                |(source, message): &(String, String)| Ok((compile(variable, source)?, message.clone()));
            all.iter().map(one).collect()
        };
        let algorithm = |name: &String| {
            name.parse::<Algorithm>().map_err(|_| format!("{name:?} is no signing algorithm"))
        };
        let extra = |(key, source): &(String, String)| Ok((key.clone(), compile("claims", source)?));
        let route = match options.network {
            None => Route::default(),
            // Whoever asks for it in so many words wants no other way.
            Some(network) => egress
                .selected(network)
                .ok_or_else(|| format!("oidc: egress lookup for {:?} is not configured", network.name()))?,
        };
        Ok(Self {
            route,
            algorithms: options.algorithms.iter().map(algorithm).collect::<Result<_, String>>()?,
            claim_rules: rules("claims", &options.claim_rules)?,
            user_rules: rules("user", &options.user_rules)?,
            username: Source::new(&options.username)?,
            groups: Source::new(&options.groups)?,
            uid: Source::new(&options.uid)?,
            extra: options.extra.iter().map(extra).collect::<Result<_, String>>()?,
            keys: ArcSwapOption::empty(),
            asked: Mutex::default(),
            told: Told::new(&options),
            options,
        })
    }

    /// Asks the issuer for its keys, unless it was asked just now.
    async fn refresh(&self) -> Result<(), String> {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < REFRESH) {
            return Ok(());
        }
        *asked = Some(Instant::now());
        let fetched = self.fetch().await;
        self.told.fetched(fetched.as_ref().ok().map(|(_, hash)| hash.as_str()));
        self.keys.store(Some(Arc::new(fetched?.0)));
        Ok(())
    }

    /// The issuer's keys, and their hash.
    async fn fetch(&self) -> Result<(JwkSet, String), String> {
        let base = match self.options.discovery_url.as_str() {
            "" => format!("{}/.well-known/openid-configuration", self.options.url.trim_end_matches('/')),
            url => url.to_owned(),
        };
        let fetch = async |url: &str| {
            let body = webhook::fetch(url, &self.options.ca, &self.route, TIMEOUT).await;
            body.map_err(|error| error.to_string())
        };
        let place =
            keys_of(&fetch(&base).await?, &self.options.url).map_err(|error| format!("{base}: {error}"))?;
        let body = fetch(&place).await?;
        let keys = key_set(&body).map_err(|error| format!("{place}: {error}"))?;
        Ok((keys, hash(&body)))
    }

    /// The claims of a token whose signature and time are good.
    async fn verified(&self, token: &str) -> Result<Value, String> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| error.to_string())?;
        if !self.algorithms.contains(&header.alg) {
            return Err(format!("id token signed with unsupported algorithm {:?}", header.alg));
        }
        // A key may have been replaced by another one of its name.
        if let Some(keys) = self.keys.load_full()
            && let Some(claims) = verify(token, &header, &keys)
        {
            return claims;
        }
        self.refresh().await?;
        let keys = self.keys.load_full();
        let claims = keys.and_then(|keys| verify(token, &header, &keys));
        claims.unwrap_or_else(|| Err("failed to verify id token signature".to_owned()))
    }

    /// The user of verified claims.
    fn user(&self, claims: &Value) -> Result<User, String> {
        let audiences = match &claims["aud"] {
            Value::String(one) => vec![one.as_str()],
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if !audiences.iter().any(|audience| self.options.audiences.iter().any(|ours| ours == audience)) {
            return Err(format!("oidc: expected audience in {:?} got {audiences:?}", self.options.audiences));
        }
        for (claim, value) in &self.options.required {
            if claims.get(claim).and_then(Value::as_str) != Some(value) {
                return Err(format!("oidc: required claim {claim} value does not match"));
            }
        }
        hold(&self.claim_rules, "claims", claims)?;
        if matches!(&self.username, Source::Claim(claim, _) if claim == "email")
            && claims.get("email_verified").is_some_and(|verified| *verified != Value::Bool(true))
        {
            return Err("oidc: email not verified".to_owned());
        }
        let one = |source: &Source| -> Result<String, String> {
            Ok(source.texts(claims)?.and_then(|all| all.into_iter().next()).unwrap_or_default())
        };
        let mut user = User {
            name: one(&self.username)?,
            uid: one(&self.uid)?,
            groups: self.groups.texts(claims)?.unwrap_or_default(),
            ..User::default()
        };
        if user.name.is_empty() {
            return Err("oidc: the token names no user".to_owned());
        }
        for (key, program) in &self.extra {
            let value = Source::texts_of(&evaluate(program, "claims", claims)?)?;
            if !value.is_empty() {
                user.extra.insert(key.clone(), value);
            }
        }
        if !self.user_rules.is_empty() {
            hold(&self.user_rules, "user", &described(&user))?;
        }
        Ok(user)
    }
}

impl Source {
    /// A value's texts; null and empty ones are none.
    fn texts_of(value: &Value) -> Result<Vec<String>, String> {
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or(format!("{value} is no string"));
        match value {
            Value::Null => Ok(Vec::new()),
            Value::Array(all) => all.iter().map(text).collect(),
            one => Ok(vec![text(one)?].into_iter().filter(|text| !text.is_empty()).collect()),
        }
    }
}

fn described(user: &User) -> Value {
    let mut info = Map::new();
    info.insert("username".to_owned(), user.name.as_str().into());
    info.insert("uid".to_owned(), user.uid.as_str().into());
    info.insert("groups".to_owned(), serde_json::json!(user.groups));
    info.insert("extra".to_owned(), serde_json::json!(user.extra));
    Value::Object(info)
}

#[async_trait]
impl Authenticator for Issuer {
    async fn authenticate(&self, credentials: &Credentials) -> Result<Option<Arc<User>>, String> {
        let Some(token) = &credentials.bearer else { return Ok(None) };
        let Some(claims) = unchecked(token) else { return Ok(None) };
        if claims["iss"] != self.options.url.as_str() {
            return Ok(None);
        }
        let begun = Instant::now();
        let user = self.verified(token).await.and_then(|claims| self.user(&claims));
        self.told.authenticated(user.is_ok(), begun);
        user.map(|user| Some(Arc::new(user)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn options() -> Options {
        let claim =
            |claim: &str, prefix: &str| Mapping::Claim { claim: claim.to_owned(), prefix: prefix.to_owned() };
        Options {
            url: "https://issuer".to_owned(),
            audiences: vec!["api".to_owned()],
            algorithms: vec!["RS256".to_owned()],
            username: claim("sub", "oidc:"),
            groups: claim("roles", "g:"),
            ..Options::default()
        }
    }

    #[test]
    fn claims_become_users() {
        let issuer = Issuer::new(options(), &Egress::default()).unwrap();
        let user = issuer.user(&json!({"aud": ["x", "api"], "sub": "jane", "roles": ["a", "b"]})).unwrap();
        assert_eq!((user.name.as_str(), user.groups.join(",")), ("oidc:jane", "g:a,g:b".to_owned()));
        let one = issuer.user(&json!({"aud": "api", "sub": "jane", "roles": "a"})).unwrap();
        assert_eq!(one.groups, ["g:a"]);
        for bad in [
            json!({"aud": "other", "sub": "jane"}),
            json!({"aud": "api"}),
            json!({"aud": "api", "sub": 7}),
            json!({"aud": "api", "sub": "jane", "roles": {"a": "b"}}),
        ] {
            assert!(issuer.user(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn emails_count_when_they_are_verified() {
        let username = Mapping::Claim { claim: "email".to_owned(), prefix: String::new() };
        let issuer = Issuer::new(Options { username, ..options() }, &Egress::default()).unwrap();
        for (verified, good) in [(json!(true), true), (json!(false), false), (json!("true"), false)] {
            let claims = json!({"aud": "api", "email": "j@x", "email_verified": verified});
            assert_eq!(issuer.user(&claims).is_ok(), good, "{verified}");
        }
        assert!(issuer.user(&json!({"aud": "api", "email": "j@x"})).is_ok());
    }

    #[test]
    fn expressions_map_and_judge() {
        let rule = |expression: &str| vec![(expression.to_owned(), "no".to_owned())];
        let options_of_rules = Options {
            username: Mapping::Expression("'u:' + claims.sub".to_owned()),
            uid: Mapping::Expression("claims.id".to_owned()),
            extra: vec![("example.com/team".to_owned(), "claims.team".to_owned())],
            claim_rules: rule("claims.tenant == 'one'"),
            user_rules: rule("!user.username.startsWith('u:system')"),
            ..options()
        };
        let issuer = Issuer::new(options_of_rules, &Egress::default()).unwrap();
        let claims = |sub: &str, tenant: &str| json!({"aud": "api", "sub": sub, "tenant": tenant, "id": "7", "team": ["a"]});
        let user = issuer.user(&claims("jane", "one")).unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("u:jane", "7"));
        assert_eq!(user.extra["example.com/team"], ["a"]);
        assert!(issuer.user(&claims("jane", "two")).is_err());
        assert!(issuer.user(&claims("system:x", "one")).is_err());
        assert!(
            Issuer::new(Options { claim_rules: rule("claims."), ..options() }, &Egress::default()).is_err()
        );
    }

    #[tokio::test]
    async fn tokens_of_others_are_not_looked_at() {
        let issuer = Issuer::new(options(), &Egress::default()).unwrap();
        let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        for token in ["abc".to_owned(), format!("a.{}.c", part(json!({"iss": "https://other"})))] {
            let credentials = Credentials { bearer: Some(token), ..Credentials::default() };
            assert_eq!(issuer.authenticate(&credentials).await, Ok(None));
        }
    }
}
