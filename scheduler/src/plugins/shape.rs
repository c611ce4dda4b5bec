//! Functions of use: how good it is that something is used to so many percent.

use crate::{
    config::args::{ArgsError, UtilizationShapePoint},
    framework::MAX_SCORE,
};

/// Scores in arguments reach from 0 to this.
pub(super) const MAX_CUSTOM: i64 = 10;

/// Points of percent and score (0 to 100); linear between them, constant beyond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape(Vec<(i64, i64)>);

impl Shape {
    /// The function of these points, which stand in a field of arguments.
    ///
    /// # Errors
    /// When there are none, or they are out of order or of bounds.
    pub(super) fn new(points: &[UtilizationShapePoint], field: &'static str) -> Result<Self, ArgsError> {
        if points.is_empty() {
            return Err(ArgsError::Value(field, "at least one point must be specified"));
        }
        if !points.is_sorted_by(|a, b| a.utilization < b.utilization) {
            return Err(ArgsError::Value(field, "utilization values must be sorted in increasing order"));
        }
        let within = |p: &UtilizationShapePoint| {
            (0..=100).contains(&p.utilization) && (0..=MAX_CUSTOM).contains(&p.score)
        };
        if !points.iter().all(within) {
            return Err(ArgsError::Value(field, "not in valid range: utilization 0-100, score 0-10"));
        }
        Ok(Self(points.iter().map(|p| (p.utilization, p.score * MAX_SCORE / MAX_CUSTOM)).collect()))
    }

    /// What it says of something of which so much is used. More than there is counts as all of it.
    pub(super) fn of(&self, used: i64, have: i64) -> i64 {
        let percent = i128::from(used) * 100 / i128::from(have.max(1));
        self.at(if used > have { 100 } else { i64::try_from(percent).unwrap_or(100) })
    }

    fn at(&self, percent: i64) -> i64 {
        let Some(after) = self.0.iter().position(|(x, _)| percent <= *x) else {
            return self.0.last().map_or(0, |(_, y)| *y);
        };
        let (x, y) = self.0[after];
        let Some((x0, y0)) = after.checked_sub(1).map(|before| self.0[before]) else { return y };
        y0 + (y - y0) * (percent - x0) / (x - x0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(points: &[(i64, i64)]) -> Result<Shape, String> {
        let point = |(utilization, score): &(i64, i64)| UtilizationShapePoint {
            utilization: *utilization,
            score: *score,
        };
        let points: Vec<UtilizationShapePoint> = points.iter().map(point).collect();
        Shape::new(&points, "shape").map_err(|error| error.to_string())
    }

    #[test]
    fn a_function_of_use_is_linear_between_its_points() {
        let bent = shape(&[(0, 0), (50, 10), (100, 2)]).unwrap();
        let table = [
            (0, 200, 0),
            (50, 200, 50),
            (100, 200, 100),
            (150, 200, 60),
            (200, 200, 20),
            (240, 200, 20),
            (1, 0, 20),
        ];
        for (used, have, expected) in table {
            assert_eq!(bent.of(used, have), expected, "{used} of {have}");
        }
        let late = shape(&[(30, 7), (60, 3)]).unwrap();
        assert_eq!([0, 30, 45, 60, 100].map(|percent| late.of(percent, 100)), [70, 70, 50, 30, 30]);
    }

    #[test]
    fn points_out_of_order_or_bounds_are_told() {
        assert_eq!(shape(&[]).unwrap_err(), "shape: at least one point must be specified");
        for points in [[(5, 1), (5, 2)], [(9, 1), (5, 2)]] {
            assert_eq!(
                shape(&points).unwrap_err(),
                "shape: utilization values must be sorted in increasing order"
            );
        }
        for points in [[(-1, 1), (5, 2)], [(0, 1), (101, 2)], [(0, -1), (5, 2)], [(0, 1), (5, 11)]] {
            assert!(shape(&points).unwrap_err().starts_with("shape: not in valid range"), "{points:?}");
        }
    }
}
