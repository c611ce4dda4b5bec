//! The JSONPath of printer columns and of selectable fields.
//!
//! Contract: kubectl's JSONPath without its templates: fields, quoted fields, indices, slices, unions of indices,
//! wildcards, recursive descent, filters that compare or ask for a field.

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

/// Why a text is no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a JSONPath at byte {0}")]
pub struct JsonPathError(usize);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Wildcard,
    Descend,
    Slice(Option<i64>, Option<i64>, i64),
    Indices(Vec<i64>),
    Filter(Operand, Comparison, Operand),
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(JsonPath),
    Literal(Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Exists,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Parses `.spec.items[0].name`, with or without braces around.
    ///
    /// # Errors
    /// Where the text stops being a path.
    pub fn parse(text: &str) -> Result<Self, JsonPathError> {
        let inner = text.trim();
        let inner = inner.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(inner);
        let mut parser = Parser { text: inner, at: 0 };
        parser.eat("$");
        let steps = parser.steps(&[])?;
        if steps.is_empty() && !inner.is_empty() && inner != "." && inner != "$" {
            return Err(JsonPathError(parser.at));
        }
        Ok(Self(steps))
    }

    /// Whether it only names fields.
    pub fn is_simple(&self) -> bool {
        self.0.iter().all(|step| matches!(step, Step::Field(_)))
    }

    /// What is there, in order.
    pub fn find<'v>(&self, root: &'v Value) -> Vec<&'v Value> {
        self.0.iter().fold(vec![root], |found, step| found.into_iter().flat_map(|v| step.apply(v)).collect())
    }
}

impl Step {
    fn apply<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match (self, value) {
            (Self::Field(name), _) => value.get(name.as_str()).into_iter().collect(),
            (Self::Wildcard, Value::Array(members)) => members.iter().collect(),
            (Self::Wildcard, Value::Object(members)) => members.values().collect(),
            (Self::Descend, _) => {
                let mut all = Vec::new();
                descend(value, &mut all);
                all
            }
            (Self::Indices(indices), Value::Array(members)) => {
                // Still negative: before the first member, where there is nothing.
                let at = |i: &i64| usize::try_from(if *i < 0 { *i + len(members) } else { *i }).ok();
                indices.iter().filter_map(|i| members.get(at(i)?)).collect()
            }
            (Self::Slice(from, to, step), Value::Array(members)) => slice(members, *from, *to, *step),
            (Self::Filter(left, comparison, right), Value::Array(members)) => {
                members.iter().filter(|member| comparison.holds(left, right, member)).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn len(members: &[Value]) -> i64 {
    i64::try_from(members.len()).unwrap_or(i64::MAX)
}

fn slice(members: &[Value], from: Option<i64>, to: Option<i64>, step: i64) -> Vec<&Value> {
    let size = len(members);
    let place = |i: i64| if i < 0 { i + size } else { i }.clamp(0, size);
    let (from, to) = (place(from.unwrap_or(0)), place(to.unwrap_or(size)));
    let (Ok(from), Ok(to), Ok(step)) =
        (usize::try_from(from), usize::try_from(to), usize::try_from(step.max(1)))
    else {
        return Vec::new();
    };
    members.iter().take(to).skip(from).step_by(step).collect()
}

fn descend<'v>(value: &'v Value, all: &mut Vec<&'v Value>) {
    all.push(value);
    match value {
        Value::Array(members) => members.iter().for_each(|v| descend(v, all)),
        Value::Object(members) => members.values().for_each(|v| descend(v, all)),
        _ => {}
    }
}

impl Comparison {
    fn holds(self, left: &Operand, right: &Operand, member: &Value) -> bool {
        let (left, right) = (left.value(member), right.value(member));
        if self == Self::Exists {
            return left.is_some();
        }
        let (Some(left), Some(right)) = (left, right) else { return false };
        let order = match (left, right) {
            (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (a, b) => (a == b).then_some(std::cmp::Ordering::Equal),
        };
        match self {
            Self::Equal => order.is_some_and(std::cmp::Ordering::is_eq),
            Self::NotEqual => !order.is_some_and(std::cmp::Ordering::is_eq),
            Self::Less => order.is_some_and(std::cmp::Ordering::is_lt),
            Self::LessOrEqual => order.is_some_and(std::cmp::Ordering::is_le),
            Self::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
            Self::GreaterOrEqual => order.is_some_and(std::cmp::Ordering::is_ge),
            Self::Exists => true,
        }
    }
}

impl Operand {
    fn value<'v>(&'v self, member: &'v Value) -> Option<&'v Value> {
        match self {
            Self::Literal(value) => Some(value),
            Self::Path(path) => path.find(member).into_iter().next(),
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn spaces(&mut self) {
        while self.eat(" ") {}
    }

    fn fail<T>(&self) -> Result<T, JsonPathError> {
        Err(JsonPathError(self.at))
    }

    /// Steps up to the end or to one of the characters that end a path inside a filter.
    fn steps(&mut self, ends: &[char]) -> Result<Vec<Step>, JsonPathError> {
        let mut steps = Vec::new();
        while let Some(next) = self.rest().chars().next() {
            if ends.contains(&next) {
                break;
            }
            if self.eat("..") {
                steps.push(Step::Descend);
                if self.rest().starts_with('[') || self.rest().is_empty() {
                    continue;
                }
                steps.push(self.field(ends)?);
            } else if self.eat(".") {
                if self.rest().is_empty() || self.rest().starts_with('[') {
                    continue;
                }
                steps.push(self.field(ends)?);
            } else if self.eat("[") {
                steps.push(self.bracket()?);
            } else if steps.is_empty() && self.at == 0 {
                steps.push(self.field(ends)?);
            } else {
                return self.fail();
            }
        }
        Ok(steps)
    }

    fn field(&mut self, ends: &[char]) -> Result<Step, JsonPathError> {
        if self.eat("*") {
            return Ok(Step::Wildcard);
        }
        let mut name = String::new();
        while let Some(next) = self.rest().chars().next() {
            match next {
                '\\' => {
                    self.at += 1;
                    let Some(escaped) = self.rest().chars().next() else { return self.fail() };
                    name.push(escaped);
                    self.at += escaped.len_utf8();
                    continue;
                }
                '.' | '[' => break,
                c if ends.contains(&c) || c.is_whitespace() || "]{}()'\"".contains(c) => break,
                c => name.push(c),
            }
            self.at += next.len_utf8();
        }
        if name.is_empty() { self.fail() } else { Ok(Step::Field(name)) }
    }

    fn bracket(&mut self) -> Result<Step, JsonPathError> {
        if self.eat("?(") {
            let filter = self.filter()?;
            return if self.eat(")]") { Ok(filter) } else { self.fail() };
        }
        if self.eat("*]") {
            return Ok(Step::Wildcard);
        }
        if self.rest().starts_with(['\'', '"']) {
            let Value::String(name) = self.quoted()? else { return self.fail() };
            return if self.eat("]") { Ok(Step::Field(name)) } else { self.fail() };
        }
        let Some(end) = self.rest().find(']') else { return self.fail() };
        let inner = self.rest()[..end].to_owned();
        let number = |text: &str| match text.trim() {
            "" => Ok(None),
            text => text.parse::<i64>().map(Some).map_err(|_| JsonPathError(self.at)),
        };
        let step = if inner.contains(':') {
            let parts: Vec<&str> = inner.split(':').collect();
            let [from, to, step] = [0, 1, 2].map(|i| number(parts.get(i).copied().unwrap_or_default()));
            if parts.len() > 3 {
                return self.fail();
            }
            Step::Slice(from?, to?, step?.unwrap_or(1))
        } else {
            let indices: Result<Vec<Option<i64>>, JsonPathError> = inner.split(',').map(number).collect();
            match indices?.into_iter().collect::<Option<Vec<i64>>>() {
                Some(indices) => Step::Indices(indices),
                None => return self.fail(),
            }
        };
        self.at += end + 1;
        Ok(step)
    }

    fn filter(&mut self) -> Result<Step, JsonPathError> {
        let left = self.operand()?;
        self.spaces();
        let comparison = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        for (sign, comparison) in comparison {
            if self.eat(sign) {
                let right = self.operand()?;
                self.spaces();
                return Ok(Step::Filter(left, comparison, right));
            }
        }
        Ok(Step::Filter(left, Comparison::Exists, Operand::Literal(Value::Null)))
    }

    fn operand(&mut self) -> Result<Operand, JsonPathError> {
        self.spaces();
        if self.eat("@") {
            let steps = self.steps(&[' ', '=', '!', '<', '>', ')'])?;
            return Ok(Operand::Path(JsonPath(steps)));
        }
        if self.rest().starts_with(['\'', '"']) {
            return self.quoted().map(Operand::Literal);
        }
        let end = self.rest().find([' ', ')', '=', '!', '<', '>']).unwrap_or(self.rest().len());
        let literal = serde_json::from_str(&self.rest()[..end]).map_err(|_| JsonPathError(self.at))?;
        self.at += end;
        Ok(Operand::Literal(literal))
    }

    fn quoted(&mut self) -> Result<Value, JsonPathError> {
        let Some(quote) = self.rest().chars().next() else { return self.fail() };
        self.at += quote.len_utf8();
        let mut text = String::new();
        while let Some(next) = self.rest().chars().next() {
            self.at += next.len_utf8();
            match next {
                '\\' => {
                    let Some(escaped) = self.rest().chars().next() else { return self.fail() };
                    self.at += escaped.len_utf8();
                    text.push(escaped);
                }
                c if c == quote => return Ok(Value::String(text)),
                c => text.push(c),
            }
        }
        self.fail()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_to_values() {
        let root = json!({"spec": {"a.b": 1, "replicas": 3, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Bad", "status": "False"}]}});
        let cases = [
            (".spec.replicas", json!([3])),
            ("{.spec.replicas}", json!([3])),
            ("spec.replicas", json!([3])),
            (".spec.a\\.b", json!([1])),
            (".spec['a.b']", json!([1])),
            (".spec.list[0].n", json!(["x"])),
            (".spec.list[-1].n", json!(["y"])),
            (".spec.list[*].v", json!([1, 2])),
            (".spec.list[0:1].v", json!([1])),
            (".spec.list[0,1].v", json!([1, 2])),
            (".spec.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".spec.conditions[?(@.type!='Ready')].status", json!(["False"])),
            (".spec.list[?(@.v > 1)].n", json!(["y"])),
            (".spec.list[?(@.v)].n", json!(["x", "y"])),
            (".spec..n", json!(["x", "y"])),
            (".spec.none.x", json!([])),
        ];
        for (path, want) in cases {
            let got: Vec<Value> = JsonPath::parse(path).unwrap().find(&root).into_iter().cloned().collect();
            assert_eq!(json!(got), want, "{path}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in [".spec[", ".spec[a]", ".spec[?(@.a==]", ".a'b", "{.a", ".a]b"] {
            assert!(JsonPath::parse(text).is_err(), "{text}");
        }
        assert!(JsonPath::parse(".spec.a").unwrap().is_simple());
        assert!(!JsonPath::parse(".spec[0]").unwrap().is_simple());
    }
}
