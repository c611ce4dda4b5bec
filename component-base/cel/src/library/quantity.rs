//! Resource quantities: `quantity("1Gi").isGreaterThan(quantity("1M"))`.

use std::any::Any;

use component_base::quantity::{Format, Quantity};

use super::Line;
use crate::value::{EvalError, Opaque, Value};

pub(super) const FUNCTIONS: &[Line] = &[
    ("string_to_quantity", "quantity(string) -> quantity", |c| {
        c.str(0)?.parse::<Quantity>().map(made).map_err(|e| EvalError::failed(e.to_string()))
    }),
    ("is_quantity_string", "isQuantity(string) -> bool", |c| {
        Ok(Value::Bool(c.str(0)?.parse::<Quantity>().is_ok()))
    }),
    ("quantity_sign", "quantity :: sign() -> int", |c| {
        Ok(Value::Int(c.opaque::<Amount>(0)?.0.sign().into()))
    }),
    ("quantity_sign_global", "sign(quantity) -> int", |c| {
        Ok(Value::Int(c.opaque::<Amount>(0)?.0.sign().into()))
    }),
    ("quantity_is_greater_than", "quantity :: isGreaterThan(quantity) -> bool", |c| {
        Ok(Value::Bool(c.opaque::<Amount>(0)?.0 > c.opaque::<Amount>(1)?.0))
    }),
    ("quantity_is_less_than", "quantity :: isLessThan(quantity) -> bool", |c| {
        Ok(Value::Bool(c.opaque::<Amount>(0)?.0 < c.opaque::<Amount>(1)?.0))
    }),
    ("quantity_compare_to", "quantity :: compareTo(quantity) -> int", |c| {
        Ok(Value::Int(c.opaque::<Amount>(0)?.0.cmp(&c.opaque::<Amount>(1)?.0) as i64))
    }),
    ("quantity_get_float", "quantity :: asApproximateFloat() -> double", |c| {
        Ok(Value::Double(c.opaque::<Amount>(0)?.0.as_f64()))
    }),
    ("quantity_get_int", "quantity :: asInteger() -> int", |c| {
        whole(c.opaque::<Amount>(0)?.0)
            .map(Value::Int)
            .ok_or(EvalError::failed("cannot convert value to integer"))
    }),
    ("quantity_is_integer", "quantity :: isInteger() -> bool", |c| {
        Ok(Value::Bool(whole(c.opaque::<Amount>(0)?.0).is_some()))
    }),
    ("quantity_add", "quantity :: add(quantity) -> quantity", |c| {
        Ok(made(c.opaque::<Amount>(0)?.0 + c.opaque::<Amount>(1)?.0))
    }),
    ("quantity_add_int", "quantity :: add(int) -> quantity", |c| {
        Ok(made(c.opaque::<Amount>(0)?.0 + Quantity::new(c.int(1)?, Format::DecimalExponent)))
    }),
    ("quantity_sub", "quantity :: sub(quantity) -> quantity", |c| {
        Ok(made(c.opaque::<Amount>(0)?.0 - c.opaque::<Amount>(1)?.0))
    }),
    ("quantity_sub_int", "quantity :: sub(int) -> quantity", |c| {
        Ok(made(c.opaque::<Amount>(0)?.0 - Quantity::new(c.int(1)?, Format::DecimalExponent)))
    }),
];

fn made<'a>(quantity: Quantity) -> Value<'a> {
    Value::opaque(Amount(quantity))
}

/// The amount when it is a whole number of 64 bits.
fn whole(quantity: Quantity) -> Option<i64> {
    let value = quantity.value();
    (Quantity::new(value, Format::DecimalSI) == quantity).then_some(value)
}

/// A quantity as a value.
#[derive(Debug)]
struct Amount(Quantity);

impl Opaque for Amount {
    fn type_name(&self) -> &str {
        "kubernetes.Quantity"
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref::<Amount>().is_some_and(|other| self.0 == other.0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
