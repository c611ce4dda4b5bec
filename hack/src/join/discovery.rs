//! Finding out that the server is the cluster that is meant: `cluster-info`, read without trust, is taken when the token signed
//! it and its CA has the hash that was given, and read again with that CA.

use std::{fmt, fs, io::Read, path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::hmac;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use x509_parser::pem::parse_x509_pem;

use crate::{
    command::{command, output},
    layout::Layout,
    screen,
};

/// Time `cluster-info` may take to be signed with a new token.
const SIGNED_WITHIN: Duration = Duration::from_secs(60);

/// A bootstrap token: six characters that name it, sixteen that are secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Public part.
    pub id: String,
    /// Secret part.
    pub secret: String,
}

/// A cluster that was found.
#[derive(Debug)]
pub(super) struct Discovered {
    /// URL of the API server.
    pub server: String,
    /// File of the CA's certificate.
    pub ca: PathBuf,
}

impl Token {
    /// A random token.
    pub fn generate() -> Result<Self> {
        const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut bytes = [0; 22];
        fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let text: String = bytes.iter().map(|b| char::from(LETTERS[usize::from(b % 32)])).collect();
        Ok(Self { id: text[..6].to_owned(), secret: text[6..].to_owned() })
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        match text.split_once('.') {
            Some((id, secret)) if good(id, 6) && good(secret, 16) => {
                Ok(Self { id: id.to_owned(), secret: secret.to_owned() })
            }
            _ => Err("a token is six and sixteen lower-case letters and digits, with a dot between".into()),
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.secret)
    }
}

/// `sha256:` and the hash of the public key of a certificate (its SubjectPublicKeyInfo, RFC 7469).
pub fn authority_hash(pem: &[u8]) -> Result<String> {
    let (_, pem) = parse_x509_pem(pem).context("the CA's certificate is no PEM")?;
    let certificate = pem.parse_x509().context("unreadable CA certificate")?;
    let digest = Sha256::digest(certificate.public_key().raw);
    Ok(format!("sha256:{}", digest.iter().map(|b| format!("{b:02x}")).collect::<String>()))
}

/// Reads and checks what the server says of its cluster; the CA's certificate is kept.
pub(super) fn discover(
    layout: &Layout,
    server: &str,
    token: &Token,
    hashes: &[String],
) -> Result<Discovered> {
    ensure!(
        !hashes.is_empty(),
        "--discovery-token-ca-cert-hash is missing: without it the server could be anyone's"
    );
    let url = format!("https://{server}/api/v1/namespaces/kube-public/configmaps/cluster-info");
    let curl =
        |trust: &[&str]| output(&mut command("curl", [&["-sSf", "-m", "10"], trust, &[&url]].concat()));
    let named = format!("\"{}\"", signature_key(token));
    let mut said = String::new();
    // A token made just now is signed with as soon as the controller has seen it.
    screen::wait("cluster-info signed with the token", SIGNED_WITHIN, || {
        said = match curl(&["-k"]) {
            Ok(said) => said,
            Err(error) => return Ok(Some(format!("{error:#}"))),
        };
        Ok((!said.contains(&named)).then(|| "it is not, the token is new or has expired".to_owned()))
    })?;
    let (url_of_cluster, pem) = check(&said, token, hashes)?;
    let ca = layout.pki().join("ca.crt");
    fs::write(&ca, &pem)?;
    let again = curl(&["--cacert", &ca.to_string_lossy()])
        .context("the server does not have a certificate of the cluster's CA")?;
    ensure!(
        check(&again, token, hashes)? == (url_of_cluster, pem),
        "the server says something else each time"
    );
    Ok(Discovered { server: format!("https://{server}"), ca })
}

/// Where `cluster-info` has the token's signature.
fn signature_key(token: &Token) -> String {
    format!("jws-kubeconfig-{}", token.id)
}

/// The server's URL and the CA's certificate out of a `cluster-info`, if the token signed them and the hash fits.
fn check(config_map: &str, token: &Token, hashes: &[String]) -> Result<(String, Vec<u8>)> {
    let info: Value = serde_json::from_str(config_map).context("cluster-info is no JSON")?;
    let data = |key: &str| info["data"][key].as_str().map(str::to_owned);
    let text = data("kubeconfig").context("cluster-info has no kubeconfig")?;
    let signature = data(&signature_key(token))
        .with_context(|| format!("cluster-info is not signed with token {}: has it expired?", token.id))?;
    verify(&text, &signature, token)?;
    let config: Value = serde_json::from_str(&text).context("the kubeconfig of cluster-info is no JSON")?;
    let cluster = &config["clusters"][0]["cluster"];
    let server = cluster["server"].as_str().context("cluster-info names no server")?;
    let pem = STANDARD.decode(cluster["certificate-authority-data"].as_str().unwrap_or_default())?;
    let hash = authority_hash(&pem)?;
    ensure!(hashes.contains(&hash), "the server's CA has the hash {hash}: this is another cluster");
    Ok((server.to_owned(), pem))
}

/// Checks a detached JSON Web Signature (RFC 7515, appendix F) made with the token's secret.
fn verify(text: &str, signature: &str, token: &Token) -> Result<()> {
    let Some((header, mac)) = signature.split_once("..") else {
        bail!("cluster-info has a malformed signature")
    };
    let said: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header)?)?;
    ensure!(said["alg"] == "HS256", "cluster-info is signed with {}, not HS256", said["alg"]);
    let key = hmac::Key::new(hmac::HMAC_SHA256, token.secret.as_bytes());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(text));
    if hmac::verify(&key, signed.as_bytes(), &URL_SAFE_NO_PAD.decode(mac)?).is_err() {
        bail!("cluster-info was not signed with this token");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pki::Authority;

    fn signed(text: &str, token: &Token, algorithm: &str) -> String {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": algorithm, "kid": token.id}).to_string());
        let key = hmac::Key::new(hmac::HMAC_SHA256, token.secret.as_bytes());
        let mac = hmac::sign(&key, format!("{header}.{}", URL_SAFE_NO_PAD.encode(text)).as_bytes());
        format!("{header}..{}", URL_SAFE_NO_PAD.encode(mac.as_ref()))
    }

    #[test]
    fn tokens_are_read_as_they_are_written() {
        let token = Token::generate().unwrap();
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert_ne!(token, Token::generate().unwrap());
        for bad in
            ["", "abcdef", "abcdef.0123456789abcde", "abcdef.0123456789ABCDEF", "abcde.00123456789abcdef"]
        {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_token_and_hash_agree_on_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let pem = |name| fs::read(Authority::load_or_create(dir.path(), name).unwrap().cert()).unwrap();
        let (ca, other) = (pem("ca"), pem("etcd-ca"));
        let (hash, token) = (authority_hash(&ca).unwrap(), Token::generate().unwrap());
        let info = |ca: &[u8], signer: &Token, algorithm: &str| {
            let cluster =
                json!({"server": "https://s:6443", "certificate-authority-data": STANDARD.encode(ca)});
            let text = json!({"clusters": [{"name": "", "cluster": cluster}]}).to_string();
            let named = format!("jws-kubeconfig-{}", token.id);
            json!({"data": {"kubeconfig": text, named: signed(&text, signer, algorithm)}}).to_string()
        };
        let stranger = Token { secret: "0".repeat(16), ..token.clone() };
        let check = |text: &str, token: &Token| check(text, token, std::slice::from_ref(&hash));
        assert_eq!(
            check(&info(&ca, &token, "HS256"), &token).unwrap(),
            ("https://s:6443".to_owned(), ca.clone())
        );
        for (text, why) in [
            (info(&other, &token, "HS256"), "another cluster"),
            (info(&ca, &stranger, "HS256"), "not signed with this token"),
            (info(&ca, &token, "none"), "not HS256"),
            (info(&ca, &token, "HS256").replace("s:6443", "t:6443"), "not signed with this token"),
            (json!({"data": {"kubeconfig": "{}"}}).to_string(), "has it expired"),
            ("{}".to_owned(), "no kubeconfig"),
        ] {
            let told = check(&text, &token).unwrap_err().to_string();
            assert!(told.contains(why), "{told}");
        }
    }
}
