//! Resource quantities (`resource.Quantity` of apimachinery): `100m`, `1.5Gi`, `2e3`.
//!
//! The value is kept exactly in billionths, upstream's finest scale; what is finer rounds away from zero. Caches should not
//! keep this type but the `i64` they need ([`Quantity::value`], [`Quantity::milli_value`]).

use std::{cmp::Ordering, fmt, str::FromStr};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

const NANOS: i128 = 1_000_000_000;

/// The suffix family a quantity was written in and prints in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySI,
    /// `12M`
    #[default]
    DecimalSI,
}

/// An exact amount with its format. Equality and order look at the amount only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is no quantity. Display is upstream's wording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    FormatWrong,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Nothing, in decimal format.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSI };

    /// `value` units.
    pub const fn new(value: i64, format: Format) -> Quantity {
        Quantity { nanos: value as i128 * NANOS, format }
    }

    /// `value` thousandths.
    pub const fn from_milli(value: i64, format: Format) -> Quantity {
        Quantity { nanos: value as i128 * 1_000_000, format }
    }

    /// Parses the text of an API quantity; an unreadable one (the API server admits none) counts as absent.
    pub fn from_api(quantity: &ApiQuantity) -> Option<Quantity> {
        quantity.0.parse().ok()
    }

    /// The API form, canonically printed.
    pub fn to_api(self) -> ApiQuantity {
        ApiQuantity(self.to_string())
    }

    /// The suffix family.
    pub const fn format(self) -> Format {
        self.format
    }

    /// In whole units, rounded up (away from zero), saturating.
    pub fn value(self) -> i64 {
        self.scaled(NANOS)
    }

    /// In thousandths, rounded up (away from zero), saturating.
    pub fn milli_value(self) -> i64 {
        self.scaled(NANOS / 1_000)
    }

    fn scaled(self, unit: i128) -> i64 {
        let rounded = divide_away_from_zero(self.nanos, unit);
        i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
    }

    /// As a float of units, for metrics and ratios.
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANOS as f64
    }

    /// Whether the amount is zero.
    pub const fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// -1, 0 or 1.
    pub const fn sign(self) -> i32 {
        self.nanos.signum() as i32
    }

    fn format_with(self, other: Quantity) -> Format {
        if self.is_zero() { other.format } else { self.format }
    }
}

/// The sum, saturating; a zero takes the other's format.
impl std::ops::Add for Quantity {
    type Output = Quantity;

    fn add(self, other: Quantity) -> Quantity {
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format: self.format_with(other) }
    }
}

/// The difference, saturating; a zero takes the other's format.
impl std::ops::Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Quantity) -> Quantity {
        Quantity { nanos: self.nanos.saturating_sub(other.nanos), format: self.format_with(other) }
    }
}

/// The product, saturating, billionths rounded up; the format is the first's.
impl std::ops::Mul for Quantity {
    type Output = Quantity;

    fn mul(self, other: Quantity) -> Quantity {
        let (whole, part) = (other.nanos / NANOS, other.nanos % NANOS);
        let of_part = (self.nanos / NANOS).saturating_mul(part);
        let rest = divide_away_from_zero((self.nanos % NANOS) * part, NANOS);
        let nanos = self.nanos.saturating_mul(whole).saturating_add(of_part).saturating_add(rest);
        Quantity { nanos, format: self.format }
    }
}

impl std::ops::Neg for Quantity {
    type Output = Quantity;

    fn neg(self) -> Quantity {
        Quantity { nanos: self.nanos.saturating_neg(), format: self.format }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Quantity, ParseError> {
        let parts = split(text)?;
        let (multiplier, format) = interpret(parts.suffix)?;
        let mut nanos = parts.nanos(multiplier)?;
        let mut format = format;
        if format == Format::BinarySI {
            nanos = nanos.min(i128::from(i64::MAX) * NANOS);
            if nanos > 0 && nanos < NANOS {
                format = Format::DecimalSI;
            }
        }
        Ok(Quantity { nanos: if parts.negative { -nanos } else { nanos }, format })
    }
}

/// A quantity's text taken apart.
struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

/// What the suffix multiplies by.
enum Multiplier {
    Ten(i64),
    Two(u32),
}

fn split(text: &str) -> Result<Parts<'_>, ParseError> {
    if text.is_empty() {
        return Err(ParseError::FormatWrong);
    }
    let (negative, rest) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (whole, mut tail) = rest.split_at(end);
    let mut fraction = "";
    if let Some(after) = tail.strip_prefix('.') {
        let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        (fraction, tail) = after.split_at(end);
    }
    let letters = tail.find(|c: char| !"eEinumkKMGTP".contains(c)).unwrap_or(tail.len());
    let exponent = tail[letters..].strip_prefix(['-', '+']).unwrap_or(&tail[letters..]);
    if !exponent.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ParseError::FormatWrong);
    }
    if whole.is_empty() && fraction.is_empty() && (!tail.is_empty() || text.contains('.')) {
        // Upstream reads a lone sign as zero and refuses every other text without digits here.
        return Err(ParseError::Numeric);
    }
    Ok(Parts { negative, whole, fraction, suffix: tail })
}

fn interpret(suffix: &str) -> Result<(Multiplier, Format), ParseError> {
    let decimal = |exponent| Ok((Multiplier::Ten(exponent), Format::DecimalSI));
    let binary = |exponent| Ok((Multiplier::Two(exponent), Format::BinarySI));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(ParseError::Suffix)?;
            let exponent = exponent.parse::<i64>().map_err(|_| ParseError::Suffix)?;
            Ok((Multiplier::Ten(exponent), Format::DecimalExponent))
        }
    }
}

impl Parts<'_> {
    /// The magnitude in billionths, rounded up. Amounts beyond 10^29 are refused as unreadable.
    fn nanos(&self, multiplier: Multiplier) -> Result<i128, ParseError> {
        let whole = self.whole.trim_start_matches('0');
        let fraction = self.fraction.trim_end_matches('0');
        let (power, factor) = match multiplier {
            Multiplier::Ten(exponent) => (exponent, 1_i128),
            Multiplier::Two(exponent) => (0, 1_i128 << exponent),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Ok(0);
        }
        // The digits as an integer, times 10^shift, is the magnitude in billionths before the binary factor.
        let digits = whole.bytes().chain(fraction.bytes()).skip_while(|b| *b == b'0').collect::<Vec<u8>>();
        let shift = power.saturating_sub(fraction.len() as i64).saturating_add(9);
        let magnitude = digits.len() as i64 + shift.min(0);
        if digits.len() as i64 > 4_000 || digits.len() as i64 + shift > 30 && factor == 1 {
            return Err(ParseError::Numeric);
        }
        if magnitude < -20 {
            return Ok(1);
        }
        // A binary amount past the cap is the cap; the digits kept are far more than it needs.
        if factor > 1 && digits.len() as i64 + shift > 29 {
            return Ok(i128::from(i64::MAX) * NANOS);
        }
        scale_digits(&digits, shift, factor)
    }
}

/// `digits * 10^shift * factor`, rounded up to an integer; a binary overflow saturates (the caller caps it).
fn scale_digits(digits: &[u8], shift: i64, factor: i128) -> Result<i128, ParseError> {
    // 29 significant digits hold every amount that is accepted; what is cut off only rounds up.
    let kept = digits.len().min(29);
    let mut shift = shift + (digits.len() - kept) as i64;
    let mut inexact = digits[kept..].iter().any(|b| *b != b'0');
    let mut value = digits[..kept].iter().fold(0_i128, |sum, b| sum * 10 + i128::from(b - b'0'));
    while shift > 0 {
        value = value.checked_mul(10).ok_or(ParseError::Numeric)?;
        shift -= 1;
    }
    // Divide before multiplying only where the product would overflow.
    let mut factor = factor;
    if let Some(product) = value.checked_mul(factor) {
        value = product;
        factor = 1;
    }
    while shift < 0 {
        inexact |= value % 10 != 0;
        value /= 10;
        shift += 1;
    }
    let value = value.checked_mul(factor).unwrap_or(i128::MAX / 2);
    Ok(value + i128::from(inexact))
}

fn divide_away_from_zero(value: i128, unit: i128) -> i128 {
    let quotient = value / unit;
    if value % unit == 0 { quotient } else { quotient + value.signum() }
}

impl fmt::Display for Quantity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return out.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANOS;
        if self.format == Format::BinarySI && !small && self.nanos % NANOS == 0 {
            return fmt_binary(out, self.nanos / NANOS);
        }
        let (mut mantissa, mut exponent) = (self.nanos, -9_i32);
        while mantissa % 10 == 0 {
            mantissa /= 10;
            exponent += 1;
        }
        while exponent.rem_euclid(3) != 0 {
            mantissa *= 10;
            exponent -= 1;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 {
                write!(out, "{mantissa}")
            } else {
                write!(out, "{mantissa}e{exponent}")
            };
        }
        // The scales are -9, -6, .. 18; larger exponents move back into the digits.
        while exponent > 18 {
            mantissa *= 1_000;
            exponent -= 3;
        }
        const SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        let index = usize::try_from((exponent + 9) / 3).unwrap_or(0);
        write!(out, "{mantissa}{}", SUFFIXES[index])
    }
}

fn fmt_binary(out: &mut fmt::Formatter<'_>, units: i128) -> fmt::Result {
    const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let (mut mantissa, mut index) = (units, 0);
    while mantissa % 1024 == 0 && index < 6 {
        mantissa /= 1024;
        index += 1;
    }
    write!(out, "{mantissa}{}", SUFFIXES[index])
}

impl serde::Serialize for Quantity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Quantity {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Quantity, D::Error> {
        let text = <ApiQuantity as serde::Deserialize>::deserialize(deserializer)?.0;
        text.trim().parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_exact() {
        for (a, b, product) in [
            ("2", "3", "6"),
            ("1500m", "2", "3"),
            ("4Gi", "0.5", "2Gi"),
            ("3", "250m", "750m"),
            ("1n", "0.5", "1n"),
            ("-2", "1.5", "-3"),
        ] {
            let of = |text: &str| text.parse::<Quantity>().unwrap();
            assert_eq!((of(a) * of(b)).to_string(), product, "{a} {b}");
        }
        let most = Quantity { nanos: i128::MAX, format: Format::DecimalSI };
        assert_eq!((most * most).nanos, i128::MAX);
    }

    #[test]
    fn prints_canonically() {
        for (text, canonical) in [
            ("0", "0"),
            ("0Ki", "0"),
            ("+", "0"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            ("100", "100"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1Ki", "1Ki"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.001Gi", "1073741824m"),
            ("512", "512"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e5", "1200e3"),
            ("1E", "1E"),
            ("100E", "100E"),
            (".1n", "1n"),
            ("0.0000000001", "1n"),
            ("-1.0000000001", "-1000000001n"),
            ("123456789.5", "123456789500m"),
            ("9999999999999Ei", "9223372036854775807"),
            ("-5Mi", "-5Mi"),
            ("1.", "1"),
        ] {
            assert_eq!(text.parse::<Quantity>().map(|q| q.to_string()).as_deref(), Ok(canonical), "{text}");
        }
    }

    #[test]
    fn refuses_what_upstream_refuses() {
        for (text, error) in [
            ("", ParseError::FormatWrong),
            ("1.1.M", ParseError::FormatWrong),
            ("1 Mi", ParseError::FormatWrong),
            ("0x10", ParseError::FormatWrong),
            ("1i", ParseError::Suffix),
            ("1Kii", ParseError::Suffix),
            ("1mm", ParseError::Suffix),
            ("1e", ParseError::Suffix),
            (".", ParseError::Numeric),
        ] {
            assert_eq!(text.parse::<Quantity>().map(|q| q.to_string()), Err(error), "{text}");
        }
    }

    #[test]
    fn rounds_up_and_computes() {
        let quantity = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(quantity("1500m").value(), 2);
        assert_eq!(quantity("-1500m").value(), -2);
        assert_eq!(quantity("1n").milli_value(), 1);
        assert_eq!(quantity("2").milli_value(), 2000);
        assert_eq!(quantity("100E").value(), i64::MAX);
        assert_eq!((quantity("1Gi") + quantity("512Mi")).to_string(), "1536Mi");
        assert_eq!((quantity("0") + quantity("1Ki")).to_string(), "1Ki");
        assert_eq!((quantity("1") - quantity("1500m")).to_string(), "-500m");
        assert!(quantity("1Ki") > quantity("1k"));
        assert_eq!(quantity("1000m"), quantity("1"));
    }

    proptest::proptest! {
        #[test]
        fn canonical_form_is_stable(nanos in -1_000_000_000_000_000_000_000_i128..1_000_000_000_000_000_000_000, kind in 0..3) {
            let format = [Format::DecimalExponent, Format::BinarySI, Format::DecimalSI][kind as usize];
            let quantity = Quantity { nanos, format };
            let again: Quantity = quantity.to_string().parse().unwrap();
            proptest::prop_assert_eq!(quantity, again);
            proptest::prop_assert_eq!(quantity.to_string(), again.to_string());
        }

        #[test]
        fn never_panics(text in "[-+]?[0-9.]{0,50}[eEinumkKMGTP]{0,2}[-+]?[0-9]{0,20}") {
            if let Ok(quantity) = text.parse::<Quantity>() {
                proptest::prop_assert_eq!(quantity.to_string().parse::<Quantity>(), Ok(quantity));
            }
        }
    }
}
