//! The command line: CoreDNS' flags where it has them, and how to reach the API server.
//!
//! Go's `flag` package takes `-conf` as well as `--conf`; so does this.

use std::path::PathBuf;

use component_base::flags::{Flag, FlagSet, Kind, Values, group};

/// Everything [`crate::run`] needs from the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `--conf`: the Corefile.
    pub corefile: PathBuf,
    /// `--kubeconfig`; the pod's service account when absent.
    pub kubeconfig: Option<PathBuf>,
    /// `--master`.
    pub master: Option<String>,
    /// `--dns.port`: port of blocks that name none; 53 when absent.
    pub port: Option<u16>,
}

/// A command line that is not usable.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// There is no such port.
    #[error("invalid argument \"{0}\" for \"--dns.port\" flag: a port is from 1 to 65535")]
    Port(i64),
}

/// The flags.
pub fn flags() -> FlagSet {
    let text = |name, default, help| Flag::new(name, Kind::String, default, help);
    FlagSet::new(
        "kube-dns",
        "Answers the names of a cluster's services and pods, and forwards the others.",
        [
            text("conf", "Corefile", "Corefile to load"),
            text(
                "kubeconfig",
                "",
                "file with the API server's address and credentials; in a pod its service account",
            ),
            text("master", "", "address of the API server, overriding the one of the kubeconfig"),
            Flag::new("dns.port", Kind::Int, "53", "port of server blocks that name none"),
        ],
    )
    .with(group::logging())
    .or_single_dash()
}

/// Takes in what the flags say.
///
/// # Errors
/// For values that cannot be.
pub fn configure(values: &Values) -> Result<Config, OptionsError> {
    let number = values.int("dns.port");
    let port = u16::try_from(number).ok().filter(|port| *port != 0).ok_or(OptionsError::Port(number))?;
    Ok(Config {
        corefile: values.string("conf").into(),
        kubeconfig: values.optional("kubeconfig").map(PathBuf::from),
        master: values.optional("master").map(str::to_owned),
        port: values.is_set("dns.port").then_some(port),
    })
}

#[cfg(test)]
mod tests {
    use component_base::flags::Parsed;

    use super::*;

    fn config(arguments: &[&str]) -> Result<Config, String> {
        match flags().parse(arguments.iter().map(|a| (*a).to_owned())).map_err(|e| e.to_string())? {
            Parsed::Run(values) => configure(&values).map_err(|e| e.to_string()),
            Parsed::Print(text) => panic!("{text}"),
        }
    }

    #[test]
    fn both_dashes_and_refusals() {
        let made = config(&["-conf", "/etc/Corefile", "--kubeconfig=k", "-dns.port=1053"]).unwrap();
        assert_eq!(made.corefile, PathBuf::from("/etc/Corefile"));
        assert_eq!((made.kubeconfig, made.port), (Some(PathBuf::from("k")), Some(1053)));
        let plain = config(&[]).unwrap();
        assert_eq!((plain.corefile, plain.port, plain.master), (PathBuf::from("Corefile"), None, None));
        for bad in ["--cnf=x", "--dns.port=x", "--dns.port=0", "--dns.port=65536", "stray", "--conf"] {
            assert!(config(&[bad]).is_err(), "{bad}");
        }
        let Ok(Parsed::Print(help)) = flags().parse(["-help".to_owned()]) else { panic!("no help") };
        assert!(help.contains("--dns.port"), "{help}");
    }
}
