//! The estimate of a whole expression: costs and sizes go up the tree, sizes of variables come from their schemas.

use std::collections::HashMap;

use super::{
    CostRange, LIST, MAP, OBJECT,
    calls::{self, Operand},
    literal_size,
};
use crate::{
    ast::{ACCUMULATOR, Comprehension, Expr, Id, Kind, Literal},
    check::{Checked, Reference},
    env::Env,
    schema::{DeclKind, DeclType},
    types::Type,
};

const NOTHING: CostRange = CostRange::fixed(0);
const NAME: CostRange = CostRange::fixed(1);

/// Estimates a checked expression.
pub(crate) fn estimate(env: &Env, checked: &Checked) -> CostRange {
    let mut estimator = Estimator {
        env,
        checked,
        locals: Vec::new(),
        places: HashMap::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
    };
    estimator.cost(&checked.ast.root)
}

/// Where in the schemas a value stands.
#[derive(Clone)]
enum Place<'e> {
    /// At a declared schema.
    Decl(&'e DeclType),
    /// A key of a declared map, or an index.
    Key,
}

/// Sizes of the keys and values of a list or map.
#[derive(Clone, Copy)]
struct Entries {
    list: bool,
    key: CostRange,
    value: CostRange,
}

impl Entries {
    fn union(self, other: Entries) -> Entries {
        Entries { list: self.list, key: self.key.union(other.key), value: self.value.union(other.value) }
    }
}

/// A variable of a comprehension.
struct Local<'e> {
    name: &'e str,
    place: Option<Place<'e>>,
    size: Option<CostRange>,
    entries: Option<Entries>,
}

struct Estimator<'e> {
    env: &'e Env,
    checked: &'e Checked,
    locals: Vec<Local<'e>>,
    places: HashMap<Id, Place<'e>>,
    sizes: HashMap<Id, CostRange>,
    entries: HashMap<Id, Entries>,
}

impl<'e> Estimator<'e> {
    fn local(&self, name: &str) -> Option<&Local<'e>> {
        self.locals.iter().rev().find(|l| l.name == name)
    }

    fn cost(&mut self, expr: &'e Expr) -> CostRange {
        match &expr.kind {
            Kind::Literal(_) => NOTHING,
            Kind::Ident(name) => {
                if self.local(name).is_none() {
                    let name = name.strip_prefix('.').unwrap_or(name);
                    let decl = self.env.find_variable(name).and_then(|v| v.decl.as_deref());
                    self.place(expr, decl.map(Place::Decl));
                }
                NAME
            }
            Kind::Select { operand, field, test } => self.select(expr, operand, field, *test),
            Kind::Call { target, args, .. } => self.call(expr, target.as_deref(), args),
            Kind::List(elements) => self.list(expr, elements),
            Kind::Map(entries) => {
                let mut sum = CostRange::fixed(MAP);
                let mut sizes: Option<Entries> = None;
                for entry in entries {
                    sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    let (key, value) = (self.size_or_unknown(&entry.key), self.size_or_unknown(&entry.value));
                    let one = Entries { list: false, key, value };
                    sizes = Some(sizes.map_or(one, |s| s.union(one)));
                }
                let empty = Entries { list: false, key: NOTHING, value: NOTHING };
                self.entries.insert(expr.id, sizes.unwrap_or(empty));
                sum
            }
            Kind::Struct { fields, .. } => {
                fields.iter().fold(CostRange::fixed(OBJECT), |sum, field| sum.plus(self.cost(&field.value)))
            }
            Kind::Comprehension(fold) if is_binding(fold) => self.binding(expr, fold),
            Kind::Comprehension(fold) => self.fold(expr, fold),
        }
    }

    fn place(&mut self, expr: &Expr, place: Option<Place<'e>>) {
        match place {
            Some(place) => self.places.insert(expr.id, place),
            None => self.places.remove(&expr.id),
        };
    }

    /// Where a value stands; nowhere, of one the expression makes.
    fn place_of(&self, expr: &Expr) -> Option<Place<'e>> {
        if let Kind::Ident(name) = &expr.kind
            && let Some(local) = self.local(name)
        {
            return local.place.clone();
        }
        self.places.get(&expr.id).cloned()
    }

    fn step(place: Option<Place<'e>>, name: &str) -> Option<Place<'e>> {
        match place? {
            Place::Decl(decl) if name == "@keys" => {
                matches!(decl.kind, DeclKind::Map(_)).then_some(Place::Key)
            }
            Place::Decl(decl) => decl.step(name).map(Place::Decl),
            Place::Key => None,
        }
    }

    fn select(&mut self, expr: &'e Expr, operand: &'e Expr, field: &str, test: bool) -> CostRange {
        // A name of several parts is one variable.
        if let Some(Reference::Variable(name)) = self.checked.references.get(&expr.id) {
            let decl = self.env.find_variable(name).and_then(|v| v.decl.as_deref());
            self.place(expr, decl.map(Place::Decl));
            return NAME;
        }
        let cost = self.cost(operand);
        if test {
            return cost;
        }
        let selects =
            matches!(self.checked.type_of(operand), Type::Map(..) | Type::Object(_) | Type::Param(_));
        let place = Self::step(self.place_of(operand), field);
        self.place(expr, place);
        if selects { cost.plus(NAME) } else { cost }
    }

    fn list(&mut self, expr: &'e Expr, elements: &'e [(Expr, bool)]) -> CostRange {
        let mut sum = CostRange::fixed(LIST);
        let mut items: Option<CostRange> = None;
        for (element, _) in elements {
            sum = sum.plus(self.cost(element));
            let size = self.size_or_unknown(element);
            items = Some(items.map_or(size, |i| i.union(size)));
        }
        let value = items.unwrap_or(NOTHING);
        self.entries.insert(expr.id, Entries { list: true, key: CostRange::fixed(1), value });
        sum
    }

    fn call(&mut self, expr: &'e Expr, target: Option<&'e Expr>, args: &'e [Expr]) -> CostRange {
        let Some(Reference::Call { function, overloads, namespaced }) = self.checked.references.get(&expr.id)
        else {
            return NOTHING;
        };
        if let ("dyn", [arg]) = (function.as_str(), args) {
            let cost = self.cost(arg);
            self.copy_sizes(expr, arg);
            return cost.plus(NAME);
        }
        let costs: Vec<CostRange> = args.iter().map(|a| self.cost(a)).collect();
        let receiver = target.filter(|_| !namespaced);
        let outside = receiver.map_or(NOTHING, |t| self.cost(t));
        let operands: Vec<Operand<'e>> = receiver.into_iter().chain(args).map(|a| self.operand(a)).collect();
        let mut cost: Option<CostRange> = None;
        let mut size: Option<CostRange> = None;
        for overload in overloads {
            let (one, made) =
                self.overload(expr, function, overload.id, receiver.is_some(), args, &operands, &costs);
            cost = Some(cost.map_or(one, |c| c.union(one)));
            size = match (size, made) {
                (Some(a), Some(b)) => Some(a.union(b)),
                (a, b) => a.or(b),
            };
            let inside = match overload.id {
                "index_list" => Some("@items"),
                "index_map" => Some("@values"),
                _ => None,
            };
            if let (Some(inside), Some(container)) = (inside, args.first()) {
                size = self.entries_of(container).map(|e| e.value);
                let place = Self::step(self.place_of(container), inside);
                self.place(expr, place);
            }
            size = size.or_else(|| self.size_of(expr));
        }
        if let Some(size) = size {
            self.sizes.insert(expr.id, size);
        }
        outside.plus(cost.unwrap_or(NOTHING))
    }

    /// One overload with its arguments.
    #[allow(clippy::too_many_arguments)]
    fn overload(
        &mut self,
        expr: &Expr,
        function: &str,
        overload: &str,
        member: bool,
        args: &'e [Expr],
        operands: &[Operand<'e>],
        costs: &[CostRange],
    ) -> calls::Estimate {
        let sum = costs.iter().fold(NOTHING, |sum, c| sum.plus(*c));
        match (overload, args, costs) {
            // The right side may not be needed.
            ("logical_and" | "logical_or", _, [left, right]) => {
                return (CostRange { min: left.min, max: left.plus(*right).max }, None);
            }
            ("conditional", [_, yes, no], [condition, if_yes, if_no]) => {
                if let (Some(a), Some(b)) = (self.entries_of(yes), self.entries_of(no)) {
                    self.entries.insert(expr.id, a.union(b));
                }
                let size = self.size_or_unknown(yes).union(self.size_or_unknown(no));
                return (condition.plus(if_yes.union(*if_no)), Some(size));
            }
            ("add_list", [left, right], _) => {
                if let (Some(a), Some(b)) = (self.entries_of(left), self.entries_of(right)) {
                    self.entries.insert(expr.id, a.union(b));
                }
            }
            _ => {}
        }
        let (cost, size) = calls::estimate(function, overload, member, operands)
            .unwrap_or_else(|| calls::standard(overload, member, operands));
        (cost.plus(sum), size)
    }

    fn operand(&mut self, expr: &'e Expr) -> Operand<'e> {
        let literal = match &expr.kind {
            Kind::Literal(literal) => Some(literal),
            _ => None,
        };
        let items = Self::step(self.place_of(expr), "@items").and_then(|place| self.declared(&place));
        Operand { cel_type: self.checked.type_of(expr).clone(), literal, known: self.size_of(expr), items }
    }

    fn declared(&self, place: &Place<'e>) -> Option<CostRange> {
        Some(CostRange {
            min: 0,
            max: match place {
                Place::Decl(decl) => decl.max_elements,
                Place::Key => 0,
            },
        })
    }

    fn size_or_unknown(&mut self, expr: &Expr) -> CostRange {
        self.size_of(expr).unwrap_or(CostRange::UNKNOWN)
    }

    fn size_of(&mut self, expr: &Expr) -> Option<CostRange> {
        if let Some(size) = self.sizes.get(&expr.id) {
            return Some(*size);
        }
        match &expr.kind {
            Kind::Literal(literal) => return Some(CostRange::fixed(literal_size(literal))),
            Kind::List(elements) => return Some(CostRange::fixed(elements.len() as u64)),
            Kind::Map(entries) => return Some(CostRange::fixed(entries.len() as u64)),
            _ => {}
        }
        if let Some(size) = self.place_of(expr).and_then(|place| self.declared(&place)) {
            self.sizes.insert(expr.id, size);
            return Some(size);
        }
        if is_scalar(self.checked.type_of(expr)) {
            return Some(CostRange::fixed(1));
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name).and_then(|l| l.size),
            _ => None,
        }
    }

    fn entries_of(&self, expr: &Expr) -> Option<Entries> {
        if let Some(entries) = self.entries.get(&expr.id) {
            return Some(*entries);
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name).and_then(|l| l.entries),
            _ => None,
        }
    }

    fn copy_sizes(&mut self, to: &Expr, from: &Expr) {
        if let Some(size) = self.size_of(from) {
            self.sizes.insert(to.id, size);
        }
        if let Some(entries) = self.entries_of(from) {
            self.entries.insert(to.id, entries);
        }
    }

    fn push(&mut self, name: &'e str, value: &Expr) {
        let place = self.place_of(value);
        let size = self.size_of(value);
        let entries = self.entries_of(value);
        self.locals.push(Local { name, place, size, entries });
    }

    /// A variable that goes over the keys or values of a range.
    fn push_part(&mut self, name: &'e str, range: &Expr, key: bool) {
        let entries = self.entries_of(range);
        let size = entries.map(|e| if key { e.key } else { e.value });
        let list = entries.map_or_else(|| matches!(self.checked.type_of(range), Type::List(_)), |e| e.list);
        let inside = match (key, list) {
            (true, true) => "@indices",
            (true, false) => "@keys",
            (false, true) => "@items",
            (false, false) => "@values",
        };
        let place = Self::step(self.place_of(range), inside);
        self.locals.push(Local { name, place, size, entries: None });
    }

    fn fold(&mut self, expr: &'e Expr, fold: &'e Comprehension) -> CostRange {
        let sum = self.cost(&fold.range).plus(self.cost(&fold.init));
        let outside = self.locals.len();
        self.push(&fold.accu, &fold.init);
        // What the expression makes has no place in a schema.
        if let Some(accu) = self.locals.last_mut() {
            accu.place = None;
        }
        let inside = self.locals.len();
        match &fold.var2 {
            Some(var2) => {
                self.push_part(&fold.var, &fold.range, true);
                self.push_part(var2, &fold.range, false);
            }
            None => {
                let list = match self.entries_of(&fold.range) {
                    Some(entries) => entries.list,
                    None => matches!(self.checked.type_of(&fold.range), Type::List(_)),
                };
                self.push_part(&fold.var, &fold.range, !list);
            }
        }
        let turn = self.cost(&fold.condition).plus(self.cost(&fold.step));
        self.locals.truncate(inside);
        let sum = sum.plus(self.cost(&fold.result));
        self.locals.truncate(outside);
        let turns = self.size_or_unknown(&fold.range);
        match &fold.init.kind {
            Kind::Literal(_) => {
                if let Some(size) = self.size_of(&fold.init) {
                    self.sizes.insert(expr.id, size);
                }
            }
            Kind::List(_) | Kind::Map(_) => {
                self.sizes.insert(expr.id, turns);
                if let Some(entries) = self.entries_of(&fold.step) {
                    self.entries.insert(expr.id, entries);
                }
            }
            _ => {}
        }
        sum.plus(turns.times(turn))
    }

    /// `cel.bind`: the value once, then what uses it.
    fn binding(&mut self, expr: &'e Expr, fold: &'e Comprehension) -> CostRange {
        let sum = self.cost(&fold.range).plus(self.cost(&fold.init));
        self.push(&fold.accu, &fold.init);
        let sum = sum.plus(self.cost(&fold.result));
        self.copy_sizes(expr, &fold.result);
        self.locals.pop();
        sum
    }
}

/// A fold over nothing that only names a value.
fn is_binding(fold: &Comprehension) -> bool {
    matches!(&fold.range.kind, Kind::List(items) if items.is_empty())
        && matches!(fold.condition.kind, Kind::Literal(Literal::Bool(false)))
        && fold.accu != ACCUMULATOR
}

/// Whether all values of a type have the same size.
fn is_scalar(t: &Type) -> bool {
    match t {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        Type::Optional(inner) => is_scalar(inner),
        _ => false,
    }
}
