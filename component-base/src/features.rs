//! Feature gates: one table of what Kubernetes 1.36 lets be switched, and which gates are on in a daemon.
//!
//! `--feature-gates` → [`Gates::parse`] (upstream's rules) → [`Switches`] (what this daemon can switch at all) →
//! [`show`] (metric). A set of gates is a small value that is passed to whoever decides by it.
//!
//! Contract: upstream's `component-base/featuregate`, with the gates and their dependencies of
//! `test/compatibility_lifecycle/reference` and `pkg/features` at 1.36.

use std::{collections::BTreeMap, fmt, sync::LazyLock};

use crate::{
    flags::{Flag, Kind, Values},
    metrics::{self, Stability},
};

mod table;
#[cfg(test)]
mod tests;

pub use self::table::{ALL, Gate};

/// How far a feature has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Off unless asked for, and may go again.
    Alpha,
    /// May still be switched.
    Beta,
    /// There to stay; the gate is about to go.
    GA,
    /// About to go.
    Deprecated,
}

impl Stage {
    /// As the metric's label has it.
    const fn label(self) -> &'static str {
        match self {
            Self::Alpha => "ALPHA",
            Self::Beta => "BETA",
            Self::GA => "",
            Self::Deprecated => "DEPRECATED",
        }
    }
}

/// Who does something else when a gate is switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// kube-apiserver.
    Api,
    /// kube-controller-manager and cloud-controller-manager.
    Controllers,
    /// kube-scheduler.
    Scheduler,
    /// kubelet.
    Kubelet,
    /// kube-proxy.
    Proxy,
}

/// What is known of a gate.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    /// The gate.
    pub gate: Gate,
    /// Its name.
    pub name: &'static str,
    /// How far it has come.
    pub stage: Stage,
    /// Whether it is on unless said otherwise.
    pub default: bool,
    /// Whether it can be no other way.
    pub locked: bool,
    /// Which daemons it is a matter of.
    pub readers: &'static [Reader],
    /// Gates without which it may not be on.
    pub needs: &'static [Gate],
}

impl Gate {
    /// What is known of it.
    pub const fn feature(self) -> &'static Feature {
        &ALL[self as usize]
    }

    /// The gate of a name.
    pub fn of(name: &str) -> Option<Self> {
        ALL.iter().find(|feature| feature.name == name).map(|feature| feature.gate)
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.feature().name)
    }
}

/// Which gates are on; [`Gates::default`] is as upstream has them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Gates {
    /// A bit for each gate of the table.
    on: [u64; 4],
}

const _: () = assert!(ALL.len() <= 256, "every gate has a bit");

impl Default for Gates {
    fn default() -> Self {
        let on = ALL.iter().filter(|feature| feature.default);
        on.fold(Self { on: [0; 4] }, |gates, feature| gates.with(feature.gate, true))
    }
}

/// What differs from the defaults, as the flag would have it.
impl fmt::Debug for Gates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let switched = ALL.iter().filter(|feature| self.has(feature.gate) != feature.default);
        f.debug_map().entries(switched.map(|feature| (feature.name, self.has(feature.gate)))).finish()
    }
}

/// Gates that change how Go's clients and logs work inside: there is nothing to switch.
const INSIDE: &[Gate] = &[
    Gate::AtomicFIFO,
    Gate::ClientsAllowCARotation,
    Gate::ClientsAllowCBOR,
    Gate::ClientsAllowTLSCacheGC,
    Gate::ClientsPreferCBOR,
    Gate::ContextualLogging,
    Gate::InOrderInformersBatchProcess,
    Gate::InformerResourceVersion,
    Gate::UnlockWhileProcessingFIFO,
    Gate::WatchListClient,
];

/// Gates of what all daemons share, which `flags::group::check_logging` holds flags of logs against.
const SHARED: &[Gate] = &[Gate::LoggingAlphaOptions, Gate::LoggingBetaOptions];

/// Gates that all daemons have one way only: as they are by default. The reason is told to who asks for the other way.
pub const ONE_WAY: &[(Gate, &str)] =
    &[(Gate::NativeHistograms, "metrics are shown as text, which has no native histograms")];

/// The gates that a daemon can switch.
#[derive(Clone, Copy, Debug)]
pub struct Switches {
    /// Its name.
    pub program: &'static str,
    /// Which of the table's readers it is.
    pub reader: Reader,
    /// What it can do both ways; `AllAlpha` and `AllBeta` need not be named.
    pub gates: &'static [Gate],
}

impl Switches {
    /// The flag they are switched by.
    pub const FLAG: &str = "feature-gates";

    /// `--feature-gates`.
    pub fn flag() -> Vec<Flag> {
        vec![Flag::new(Self::FLAG, Kind::Strings, "", help())]
    }

    /// The gates as the flag has them.
    ///
    /// # Errors
    /// For gates there are none of, and for those that this daemon cannot switch.
    pub fn read(&self, values: &Values) -> Result<Gates, GateErrors> {
        self.check(Gates::parse(&values.list(Self::FLAG))?)
    }

    /// The gates as a configuration file has them.
    ///
    /// # Errors
    /// As [`Switches::read`].
    pub fn of(&self, said: &BTreeMap<String, bool>) -> Result<Gates, GateErrors> {
        let said: Vec<(String, bool)> = said.iter().map(|(name, on)| (name.clone(), *on)).collect();
        self.check(Gates::default().switched(&said)?)
    }

    /// Gates that are a matter of this daemon, not locked, and yet as they are by default, beside those of [`ONE_WAY`].
    pub fn not_switched(&self) -> Vec<Gate> {
        let all = self.all();
        let own = ALL.iter().filter(|feature| !feature.locked && feature.readers.contains(&self.reader));
        let is_left = |gate: &Gate| !all.contains(gate) && one_way(*gate).is_none();
        own.map(|feature| feature.gate).filter(is_left).collect()
    }

    fn all(&self) -> Vec<Gate> {
        [&[Gate::AllAlpha, Gate::AllBeta], INSIDE, SHARED, self.gates].concat()
    }

    fn check(&self, gates: Gates) -> Result<Gates, GateErrors> {
        let all = self.all();
        gates.check(self.program, self.reader, &all)?;
        Ok(gates)
    }
}

/// Why no daemon has a gate the other way.
fn one_way(gate: Gate) -> Option<&'static str> {
    ONE_WAY.iter().find(|(of, _)| *of == gate).map(|(_, why)| *why)
}

fn because(gate: Gate) -> String {
    one_way(gate).map_or_else(String::new, |why| format!(", as {why}"))
}

/// Why a gate is not what it was to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// A name alone.
    #[error("missing bool value for {0}")]
    NoValue(String),
    /// Neither true nor false.
    #[error("invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax")]
    Value {
        /// The gate.
        name: String,
        /// What it was to be.
        value: String,
    },
    /// No gate of 1.36.
    #[error("unrecognized feature gate: {0}")]
    Unknown(String),
    /// Gates of another program.
    #[error("component not registered: {0}")]
    Component(String),
    /// Both ways of naming the component.
    #[error("set kube feature gates with default empty prefix or kube: prefix consistently, do not mix use")]
    Mixed,
    /// What cannot be switched anywhere.
    #[error("cannot set feature gate {gate} to {}, feature is locked to {}", !gate.feature().default, gate.feature().default)]
    Locked {
        /// The gate.
        gate: Gate,
    },
    /// What something else has to be on for.
    #[error("{gate} is enabled, but depends on features that are disabled: [{}]", list(.missing, " "))]
    Needs {
        /// The gate.
        gate: Gate,
        /// What is off.
        missing: Vec<Gate>,
    },
    /// What this daemon is one way only.
    #[error("cannot set feature gate {gate} to {}: this {program} has it {} only{}", !gate.feature().default, if gate.feature().default { "on" } else { "off" }, because(*.gate))]
    Fixed {
        /// The gate.
        gate: Gate,
        /// Who cannot switch it.
        program: &'static str,
    },
}

fn list(all: &[Gate], between: &str) -> String {
    all.iter().map(|gate| gate.feature().name).collect::<Vec<_>>().join(between)
}

/// All that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", aggregate(.0))]
pub struct GateErrors(pub Vec<GateError>);

fn aggregate(all: &[GateError]) -> String {
    match all {
        [one] => one.to_string(),
        all => format!("[{}]", all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

impl GateErrors {
    fn none_of(all: Vec<GateError>) -> Result<(), Self> {
        if all.is_empty() { Ok(()) } else { Err(Self(all)) }
    }
}

impl From<GateError> for GateErrors {
    fn from(error: GateError) -> Self {
        Self(vec![error])
    }
}

impl Gates {
    /// Whether a gate is on.
    pub const fn has(self, gate: Gate) -> bool {
        let at = gate as usize;
        self.on[at / 64] & (1 << (at % 64)) != 0
    }

    /// The same with one gate on or off.
    #[must_use]
    pub const fn with(mut self, gate: Gate, on: bool) -> Self {
        let at = gate as usize;
        let bit = 1 << (at % 64);
        self.on[at / 64] = if on { self.on[at / 64] | bit } else { self.on[at / 64] & !bit };
        self
    }

    /// The gates that `name=bool` pairs ask for, each perhaps with the component in front (`kube:name=bool`). Of one
    /// name the last pair counts; what is said of a gate goes before what `AllAlpha` and `AllBeta` say.
    ///
    /// # Errors
    /// For names and values there are none of, for locked gates, and for gates whose dependencies are off.
    pub fn parse<S: AsRef<str>>(pairs: &[S]) -> Result<Self, GateErrors> {
        let mut said: Vec<(String, bool)> = Vec::new();
        let (mut bare, mut prefixed) = (false, false);
        for pair in pairs.iter().map(|pair| pair.as_ref().trim()).filter(|pair| !pair.is_empty()) {
            let (component, pair) = pair.split_once(':').unwrap_or(("", pair));
            match component.trim() {
                "" => bare = true,
                "kube" => prefixed = true,
                other => return Err(GateError::Component(other.to_owned()).into()),
            }
            let (name, on) = pair_of(pair)?;
            said.retain(|(other, _)| *other != name);
            said.push((name, on));
        }
        if bare && prefixed {
            return Err(GateError::Mixed.into());
        }
        Self::default().switched(&said)
    }

    fn switched(self, said: &[(String, bool)]) -> Result<Self, GateErrors> {
        let (mut gates, mut wrong, mut own) = (self, Vec::new(), Vec::new());
        for (name, on) in said {
            match Gate::of(name) {
                None => wrong.push(GateError::Unknown(name.clone())),
                Some(gate) if gate.feature().locked && gate.feature().default != *on => {
                    wrong.push(GateError::Locked { gate });
                }
                Some(gate) => {
                    gates = gates.with(gate, *on);
                    own.push((gate, *on));
                }
            }
        }
        GateErrors::none_of(wrong)?;
        for (of_all, stage) in [(Gate::AllAlpha, Stage::Alpha), (Gate::AllBeta, Stage::Beta)] {
            let Some((_, on)) = own.iter().find(|(gate, _)| *gate == of_all) else { continue };
            let concerned = ALL.iter().filter(|feature| {
                let in_general = matches!(feature.gate, Gate::AllAlpha | Gate::AllBeta);
                feature.stage == stage && !in_general && !own.iter().any(|(gate, _)| *gate == feature.gate)
            });
            gates = concerned.fold(gates, |gates, feature| gates.with(feature.gate, *on));
        }
        GateErrors::none_of(gates.unmet())?;
        Ok(gates)
    }

    /// Gates that are on without what they need.
    fn unmet(self) -> Vec<GateError> {
        let of = |feature: &Feature| {
            let missing: Vec<Gate> =
                feature.needs.iter().copied().filter(|needed| !self.has(*needed)).collect();
            let is_unmet = self.has(feature.gate) && !missing.is_empty();
            is_unmet.then_some(GateError::Needs { gate: feature.gate, missing })
        };
        ALL.iter().filter_map(of).collect()
    }

    /// Whether a daemon can be as these gates say: what is a matter of `reader` and not among those it can `switch`
    /// has to be as it is by default. Gates that only other daemons read may be any way, as one list is often
    /// given to all daemons.
    ///
    /// # Errors
    /// For each gate that is not.
    fn check(self, program: &'static str, reader: Reader, switch: &[Gate]) -> Result<(), GateErrors> {
        let is_fixed = |feature: &&Feature| {
            let other_way = self.has(feature.gate) != feature.default;
            other_way && feature.readers.contains(&reader) && !switch.contains(&feature.gate)
        };
        let fixed = ALL.iter().filter(is_fixed);
        GateErrors::none_of(fixed.map(|feature| GateError::Fixed { gate: feature.gate, program }).collect())
    }
}

/// `name=bool`.
fn pair_of(pair: &str) -> Result<(String, bool), GateError> {
    let (name, value) = match pair.split_once('=') {
        Some((name, value)) => (name.trim().to_owned(), value.trim()),
        None => return Err(GateError::NoValue(pair.trim().to_owned())),
    };
    match crate::flags::parse_bool(value) {
        Some(on) => Ok((name, on)),
        None => Err(GateError::Value { name, value: value.to_owned() }),
    }
}

/// The gates that are worth a line of `--help`: those that are alpha or beta.
pub fn help() -> &'static str {
    static HELP: LazyLock<String> = LazyLock::new(|| {
        let worth = ALL.iter().filter(|feature| matches!(feature.stage, Stage::Alpha | Stage::Beta));
        let line = |feature: &Feature| {
            format!("\n{}=true|false ({} - default={})", feature.name, feature.stage.label(), feature.default)
        };
        let mut lines: Vec<String> = worth.map(line).collect();
        lines.sort_unstable();
        format!("name=true|false pairs that switch features; those there are:{}", lines.concat())
    });
    &HELP
}

/// Tells the gates by the metric `kubernetes_feature_enabled`.
pub fn show(gates: Gates) {
    let metric = metrics::gauge_vec(
        "kubernetes_feature_enabled",
        "This metric records the data about the stage and enablement of a k8s feature.",
        Stability::Beta,
        &["name", "stage"],
    );
    for feature in &ALL {
        metric.with_label_values(&[feature.name, feature.stage.label()]).set(gates.has(feature.gate).into());
    }
}
