//! `prioritylevelconfigurations` of flowcontrol.apiserver.k8s.io.

use std::sync::Arc;

use crate::{
    field::{Error, ErrorList, Path},
    flowcontrol::bootstrap,
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Plain, Rules, at::At, column, fill, semantic},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Type", "string"),
    column("NominalConcurrencyShares", "string"),
    column("Queues", "string"),
    column("HandSize", "string"),
    column("QueueLengthLimit", "string"),
    column("Age", "string"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/type", ""),
    Cell::Field("/spec/limited/nominalConcurrencyShares", "<none>"),
    Cell::Field("/spec/limited/limitResponse/queuing/queues", "<none>"),
    Cell::Field("/spec/limited/limitResponse/queuing/handSize", "<none>"),
    Cell::Field("/spec/limited/limitResponse/queuing/queueLengthLimit", "<none>"),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            validate,
            validate_status: |new, _, errors| super::check_conditions(new, errors),
            status_alone: true,
            ..Rules::new(Plain { status: true, generation: true, cells: CELLS })
        }),
        ..Resource::of(
            "flowcontrol.apiserver.k8s.io",
            "PriorityLevelConfiguration",
            "prioritylevelconfigurations",
            "prioritylevelconfiguration",
        )
    }
}

/// Shares, and how requests are queued.
fn default(obj: &mut Object) {
    let Some(spec) = fill::spec(obj) else { return };
    if let Some(exempt) = fill::child(spec, "exempt") {
        fill::missing(exempt, "nominalConcurrencyShares", 0);
        fill::missing(exempt, "lendablePercent", 0);
    }
    let Some(limited) = fill::child(spec, "limited") else { return };
    fill::missing(limited, "nominalConcurrencyShares", 30);
    fill::missing(limited, "lendablePercent", 0);
    if let Some(queuing) = fill::child(limited, "limitResponse").and_then(|r| fill::child(r, "queuing")) {
        super::zero(queuing, "handSize", 8);
        super::zero(queuing, "queues", 64);
        super::zero(queuing, "queueLengthLimit", 50);
    }
}

const EXEMPT: &str = "exempt";
const ZERO_SHARES: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";
const MAX_QUEUES: i64 = 10_000_000;
/// Bits of the hash that deals hands of queues.
const HASH_BITS: i64 = 60;

fn validate(level: &Object, errors: &mut ErrorList) {
    if level.annotation(ZERO_SHARES).is_some() {
        let path = Path::new("metadata").child("annotations");
        errors.push(Error::forbidden(&path, format!("annotation '{ZERO_SHARES}' is forbidden")));
    }
    let spec = At::spec(level);
    let (kind, limited, exempt) = (spec.get("type"), spec.get("limited"), spec.get(EXEMPT));
    if (level.name() == EXEMPT) != (kind.text() == "Exempt") {
        kind.invalid_as(errors, kind.text(), "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    match kind.text() {
        "Exempt" => {
            if limited.is_set() {
                limited.forbidden(errors, "must be nil if the type is not Limited");
            }
            check_shares(&exempt, errors);
            check_lendable(&exempt, errors);
        }
        "Limited" => {
            if exempt.is_set() {
                exempt.forbidden(errors, "must be nil if the type is Limited");
            }
            if limited.is_set() {
                check_limited(&limited, errors);
            } else {
                limited.required(errors, "must not be empty when type is Limited");
            }
        }
        other => errors.push(Error::not_supported(kind.path(), other, &["Exempt", "Limited"])),
    }
    check_fixed(level, &spec, errors);
    super::check_conditions(level, errors);
}

/// The levels every cluster has stay what they are, but for how much the exempt one lends.
fn check_fixed(level: &Object, spec: &At<'_>, errors: &mut ErrorList) {
    let (mandatory, _) = bootstrap::mandatory();
    let Some(fixed) = mandatory.iter().find(|fixed| fixed.name() == level.name()) else { return };
    let (mut want, mut have) = (At::spec(fixed).value().clone(), spec.value().clone());
    let mut except = "";
    if level.name() == EXEMPT {
        except = " except the 'spec.exempt' field";
        for value in [&mut want, &mut have] {
            value.as_object_mut().map(|fields| fields.remove(EXEMPT));
        }
    }
    if !semantic::same(&want, &have) {
        spec.invalid(errors, format!("spec of '{}'{except} must equal the fixed value", level.name()));
    }
}

fn check_shares(part: &At<'_>, errors: &mut ErrorList) {
    let shares = part.get("nominalConcurrencyShares");
    if shares.int() < 0 {
        shares.invalid(errors, "must be a non-negative integer");
    }
}

fn check_lendable(part: &At<'_>, errors: &mut ErrorList) {
    let lendable = part.get("lendablePercent");
    if !(0..=100).contains(&lendable.int()) {
        lendable.invalid(errors, "must be between 0 and 100, inclusive");
    }
}

fn check_limited(limited: &At<'_>, errors: &mut ErrorList) {
    check_shares(limited, errors);
    let response = limited.get("limitResponse");
    let (kind, queuing) = (response.get("type"), response.get("queuing"));
    match kind.text() {
        "Reject" if queuing.is_set() => {
            queuing.forbidden(errors, "must be nil if limited.limitResponse.type is not Limited");
        }
        "Reject" => {}
        "Queue" if queuing.is_set() => check_queuing(&queuing, errors),
        "Queue" => queuing.required(errors, "must not be empty if limited.limitResponse.type is Limited"),
        other => errors.push(Error::not_supported(kind.path(), other, &["Queue", "Reject"])),
    }
    check_lendable(limited, errors);
    let borrowing = limited.get("borrowingLimitPercent");
    if borrowing.int() < 0 {
        borrowing.invalid(errors, "if specified, must be a non-negative integer");
    }
}

fn check_queuing(queuing: &At<'_>, errors: &mut ErrorList) {
    let (length, queues, hand) =
        (queuing.get("queueLengthLimit"), queuing.get("queues"), queuing.get("handSize"));
    if length.int() <= 0 {
        length.invalid_as(errors, length.int(), "must be positive");
    }
    match queues.int() {
        n if n <= 0 => queues.invalid_as(errors, n, "must be positive"),
        n if n > MAX_QUEUES => queues.invalid(errors, format!("must not be greater than {MAX_QUEUES}")),
        _ => {}
    }
    let (deck, size) = (queues.int(), hand.int());
    if size <= 0 {
        hand.invalid_as(errors, size, "must be positive");
    } else if size > deck {
        hand.invalid(errors, format!("should not be greater than queues ({deck})"));
    } else if ((deck as f64).log2() * size as f64).ceil() as i64 > HASH_BITS {
        let bits = format!("required entropy bits of deckSize {deck} and handSize {size}");
        hand.invalid(errors, format!("{bits} should not be greater than {HASH_BITS}"));
    }
}
