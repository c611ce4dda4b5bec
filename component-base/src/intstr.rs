//! `IntOrString` values that are counts or percentages of a total (apimachinery's `intstr`).

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Why a value is neither a count nor a percentage. Display is upstream's wording.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScaleError {
    #[error("invalid value for IntOrString: invalid type: string is not a percentage")]
    NotAPercentage,
    #[error(
        "invalid value for IntOrString: invalid value {0:?}: strconv.Atoi: parsing {0:?}: invalid syntax"
    )]
    Syntax(String),
}

/// Which way a percentage that is not whole is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    Up,
    Down,
}

/// The count that `value` means for `total`: itself if a number, the share if a percentage such as `25%`.
///
/// # Errors
/// When the value is a string that is no percentage.
pub fn scaled(value: &IntOrString, total: i64, rounding: Rounding) -> Result<i64, ScaleError> {
    let percent = match value {
        IntOrString::Int(count) => return Ok(i64::from(*count)),
        IntOrString::String(text) => percentage(text)?,
    };
    let product = i128::from(percent) * i128::from(total);
    let share = match rounding {
        Rounding::Up => -(-product).div_euclid(100),
        Rounding::Down => product.div_euclid(100),
    };
    Ok(i64::try_from(share).unwrap_or(if share < 0 { i64::MIN } else { i64::MAX }))
}

fn percentage(text: &str) -> Result<i64, ScaleError> {
    let digits = text.strip_suffix('%').ok_or(ScaleError::NotAPercentage)?;
    digits.parse().map_err(|_| ScaleError::Syntax(digits.to_owned()))
}

/// A number if the text is one, else the text (`intstr.Parse`).
pub fn parse(text: &str) -> IntOrString {
    text.parse().map_or_else(|_| IntOrString::String(text.to_owned()), IntOrString::Int)
}

/// As upstream prints it.
pub fn to_string(value: &IntOrString) -> String {
    match value {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_with_the_asked_rounding() {
        for (value, total, rounding, expected) in [
            ("123", 10, Rounding::Up, Ok(123)),
            ("90%", 100, Rounding::Up, Ok(90)),
            ("95%", 100, Rounding::Up, Ok(95)),
            ("9%", 100, Rounding::Down, Ok(9)),
            ("25%", 10, Rounding::Up, Ok(3)),
            ("25%", 10, Rounding::Down, Ok(2)),
            ("1%", 10, Rounding::Up, Ok(1)),
            ("100%", i64::MAX, Rounding::Up, Ok(i64::MAX)),
            ("ten", 10, Rounding::Up, Err(ScaleError::NotAPercentage)),
            ("ten%", 10, Rounding::Up, Err(ScaleError::Syntax("ten".into()))),
        ] {
            assert_eq!(scaled(&parse(value), total, rounding), expected, "{value} of {total}");
        }
    }
}
