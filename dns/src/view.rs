//! Which server block a query is for, by more than its name: a condition over who asks, how and what. Pure.
//!
//! Contract: CoreDNS' plugin view, with the part of its expressions that says something of a query: comparisons, `in`,
//! `matches`, `contains`, `startsWith`, `endsWith`, `and`, `or`, `not`, lists, ranges of numbers and the functions of
//! [`FUNCTIONS`]. An expression that is not of the right kind is refused when it is read, so that none fails later.

use std::net::SocketAddr;

use ipnet::IpNet;
use regex::{Regex, RegexBuilder};

/// Bytes that a regular expression may take once it is compiled.
const MAX_REGEX: usize = 1 << 20;
/// How deep conditions may be nested.
const MAX_DEPTH: usize = 64;

/// `view NAME { expr … }`.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// What it is called in metrics.
    pub name: String,
    /// Conditions, all of which have to hold.
    pub conditions: Vec<Condition>,
}

/// What is known of a query.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// Who asks.
    pub client: SocketAddr,
    /// `udp` or `tcp`.
    pub protocol: &'a str,
    /// The name asked for, in lower case with a dot at its end.
    pub name: String,
    /// The type.
    pub kind: String,
    /// The class.
    pub class: String,
    /// Bytes of the query.
    pub size: usize,
    /// Bytes that the client takes.
    pub buffer: u16,
    /// The client wants signatures.
    pub dnssec: bool,
    /// The query's number.
    pub id: u16,
    /// What it is meant to do.
    pub opcode: u8,
    /// The port it came to.
    pub port: u16,
}

/// A condition that has been read.
#[derive(Clone, Debug)]
pub struct Condition(Expr);

impl View {
    /// Whether the query is for the block.
    #[must_use]
    pub fn admits(&self, asked: &Asked<'_>) -> bool {
        self.conditions.iter().all(|condition| condition.holds(asked))
    }
}

impl Condition {
    /// Reads a condition; says what is wrong with one that does not read.
    ///
    /// # Errors
    /// When it is no condition.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { tokens: tokenize(text)?, at: 0, depth: 0 };
        let whole = parser.any()?;
        match parser.tokens.get(parser.at) {
            Some(token) => Err(format!("unexpected {token}")),
            None if whole.kind() != Kind::Bool => Err(format!("{text} is no condition")),
            None => Ok(Self(whole)),
        }
    }

    /// Whether it holds for a query.
    #[must_use]
    pub fn holds(&self, asked: &Asked<'_>) -> bool {
        self.0.value(asked) == Value::Bool(true)
    }
}

/// What an expression is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bool,
    Number,
    Text,
    List,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Bool(bool),
    Number(i64),
    Text(String),
}

/// What a function says of a query.
type Read = fn(&Asked<'_>) -> Value;

/// Functions without arguments, and what they are of.
const FUNCTIONS: [(&str, Kind, Read); 12] = [
    ("bufsize", Kind::Number, |q| Value::Number(q.buffer.into())),
    ("class", Kind::Text, |q| Value::Text(q.class.clone())),
    ("client_ip", Kind::Text, |q| Value::Text(address(q.client))),
    ("do", Kind::Bool, |q| Value::Bool(q.dnssec)),
    ("id", Kind::Number, |q| Value::Number(q.id.into())),
    ("name", Kind::Text, |q| Value::Text(q.name.clone())),
    ("opcode", Kind::Number, |q| Value::Number(q.opcode.into())),
    ("port", Kind::Text, |q| Value::Text(q.client.port().to_string())),
    ("proto", Kind::Text, |q| Value::Text(q.protocol.to_owned())),
    ("server_port", Kind::Text, |q| Value::Text(q.port.to_string())),
    ("size", Kind::Number, |q| Value::Number(i64::try_from(q.size).unwrap_or(i64::MAX))),
    ("type", Kind::Text, |q| Value::Text(q.kind.clone())),
];

/// An address as it is compared with; those of IPv6 stand in brackets.
fn address(client: SocketAddr) -> String {
    match client.ip().to_canonical() {
        std::net::IpAddr::V4(v4) => v4.to_string(),
        std::net::IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compare {
    Equal,
    Differs,
    Less,
    AtMost,
    More,
    AtLeast,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Contains,
    Starts,
    Ends,
}

#[derive(Clone, Debug)]
enum Expr {
    Constant(Value),
    Of(Kind, Read),
    InNetwork(Box<Expr>, IpNet),
    Not(Box<Expr>),
    All(Vec<Expr>),
    Some(Vec<Expr>),
    Compare(Compare, Box<Expr>, Box<Expr>),
    Part(Part, Box<Expr>, Box<Expr>),
    Matches(Box<Expr>, Regex),
    Among(Box<Expr>, Vec<Expr>),
    Within(Box<Expr>, i64, i64),
    /// Only behind `in`.
    List(Vec<Expr>),
    Range(i64, i64),
}

impl Expr {
    fn kind(&self) -> Kind {
        match self {
            Self::Constant(Value::Number(_)) => Kind::Number,
            Self::Constant(Value::Text(_)) => Kind::Text,
            Self::Of(kind, _) => *kind,
            Self::List(_) | Self::Range(..) => Kind::List,
            _ => Kind::Bool,
        }
    }

    fn value(&self, asked: &Asked<'_>) -> Value {
        let holds = |expr: &Self| expr.value(asked) == Value::Bool(true);
        let text = |expr: &Self| match expr.value(asked) {
            Value::Text(text) => text,
            _ => String::new(),
        };
        Value::Bool(match self {
            Self::Constant(value) => return value.clone(),
            Self::Of(_, read) => return read(asked),
            Self::InNetwork(of, network) => {
                let address = text(of);
                let bare = address.trim_start_matches('[').trim_end_matches(']');
                bare.parse().is_ok_and(|ip: std::net::IpAddr| network.contains(&ip))
            }
            Self::Not(of) => !holds(of),
            Self::All(parts) => parts.iter().all(holds),
            Self::Some(parts) => parts.iter().any(holds),
            Self::Compare(how, a, b) => how.holds(&a.value(asked), &b.value(asked)),
            Self::Part(how, whole, part) => {
                let (whole, part) = (text(whole), text(part));
                match how {
                    Part::Contains => whole.contains(&part),
                    Part::Starts => whole.starts_with(&part),
                    Part::Ends => whole.ends_with(&part),
                }
            }
            Self::Matches(of, regex) => regex.is_match(&text(of)),
            Self::Among(of, list) => {
                let value = of.value(asked);
                list.iter().any(|one| one.value(asked) == value)
            }
            Self::Within(of, from, to) => {
                matches!(of.value(asked), Value::Number(number) if (*from..=*to).contains(&number))
            }
            // They stand behind `in` alone, which looks into them itself.
            Self::List(_) | Self::Range(..) => false,
        })
    }
}

impl Compare {
    fn of(text: &str) -> Option<Self> {
        Some(match text {
            "==" => Self::Equal,
            "!=" => Self::Differs,
            "<" => Self::Less,
            "<=" => Self::AtMost,
            ">" => Self::More,
            ">=" => Self::AtLeast,
            _ => return None,
        })
    }

    fn holds(self, a: &Value, b: &Value) -> bool {
        let order = match (a, b) {
            (Value::Number(a), Value::Number(b)) => a.cmp(b),
            (Value::Text(a), Value::Text(b)) => a.cmp(b),
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            // Of different kinds they were refused.
            _ => return false,
        };
        match self {
            Self::Equal => order.is_eq(),
            Self::Differs => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::AtMost => order.is_le(),
            Self::More => order.is_gt(),
            Self::AtLeast => order.is_ge(),
        }
    }
}

// === reading ===

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Sign(&'static str),
    Number(i64),
    Text(String),
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Word(word) => f.write_str(word),
            Self::Sign(sign) => f.write_str(sign),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => write!(f, "'{text}'"),
        }
    }
}

/// Signs, the longer of two that begin alike first.
const SIGNS: [&str; 16] =
    ["==", "!=", "<=", ">=", "&&", "||", "..", "<", ">", "!", "(", ")", "[", "]", ",", "."];

fn tokenize(text: &str) -> Result<Vec<Token>, String> {
    let (mut out, mut rest) = (Vec::new(), text.trim_start());
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '\'' | '"' => {
                let (value, taken) = quoted(rest, first)?;
                out.push(Token::Text(value));
                taken
            }
            c if c.is_ascii_digit() => {
                let taken = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                let number = rest[..taken].parse().map_err(|_| format!("{} is too large", &rest[..taken]))?;
                out.push(Token::Number(number));
                taken
            }
            c if c.is_alphabetic() || c == '_' => {
                let taken = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                out.push(Token::Word(rest[..taken].to_owned()));
                taken
            }
            c => {
                let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
                let sign = sign.ok_or_else(|| format!("unexpected {c}"))?;
                out.push(Token::Sign(sign));
                sign.len()
            }
        };
        rest = rest[taken..].trim_start();
    }
    Ok(out)
}

/// What stands between quotes, and how many bytes it took.
fn quoted(text: &str, quote: char) -> Result<(String, usize), String> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, 't')) => out.push('\t'),
                Some((_, c)) => out.push(c),
                None => break,
            },
            c if c == quote => return Ok((out, at + c.len_utf8())),
            c => out.push(c),
        }
    }
    Err(format!("{text} does not end"))
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    /// Takes one of these words or signs.
    fn take(&mut self, wanted: &[&str]) -> Option<String> {
        let found = match self.peek()? {
            Token::Word(word) if wanted.contains(&word.as_str()) => word.clone(),
            Token::Sign(sign) if wanted.contains(sign) => (*sign).to_owned(),
            _ => return None,
        };
        self.at += 1;
        Some(found)
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), String> {
        match self.take(&[sign]) {
            Some(_) => Ok(()),
            None => Err(match self.peek() {
                Some(token) => format!("unexpected {token}, want {sign}"),
                None => format!("{sign} is missing"),
            }),
        }
    }

    fn any(&mut self) -> Result<Expr, String> {
        let mut parts = vec![self.every()?];
        while self.take(&["or", "||"]).is_some() {
            parts.push(self.every()?);
        }
        joined(parts, Expr::Some)
    }

    fn every(&mut self) -> Result<Expr, String> {
        let mut parts = vec![self.one()?];
        while self.take(&["and", "&&"]).is_some() {
            parts.push(self.one()?);
        }
        joined(parts, Expr::All)
    }

    fn one(&mut self) -> Result<Expr, String> {
        if self.take(&["not", "!"]).is_some() {
            self.enter()?;
            let of = boolean(self.one()?)?;
            self.depth -= 1;
            return Ok(Expr::Not(Box::new(of)));
        }
        let left = self.operand()?;
        let negated = self.take(&["not"]).is_some();
        let words = ["in", "matches", "contains", "startsWith", "endsWith"];
        let Some(word) = self.take(&words) else {
            if negated {
                return Err("not is followed by nothing that can be negated".to_owned());
            }
            let signs = ["==", "!=", "<", "<=", ">", ">="];
            let Some(how) = self.take(&signs).and_then(|sign| Compare::of(&sign)) else { return Ok(left) };
            return compare(how, left, self.operand()?);
        };
        let right = self.operand()?;
        let made = relate(&word, left, right)?;
        Ok(if negated { Expr::Not(Box::new(made)) } else { made })
    }

    fn enter(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err("conditions are nested too deep".to_owned()) } else { Ok(()) }
    }

    fn operand(&mut self) -> Result<Expr, String> {
        let token = self.peek().cloned().ok_or("the expression ends too early")?;
        self.at += 1;
        match token {
            Token::Text(text) => Ok(Expr::Constant(Value::Text(text))),
            Token::Number(from) if self.take(&[".."]).is_some() => match self.operand()? {
                Expr::Constant(Value::Number(to)) => Ok(Expr::Range(from, to)),
                _ => Err(format!("{from}.. leads to no number")),
            },
            Token::Number(number) => Ok(Expr::Constant(Value::Number(number))),
            Token::Word(word) if word == "true" || word == "false" => {
                Ok(Expr::Constant(Value::Bool(word == "true")))
            }
            Token::Word(word) => self.function(&word),
            Token::Sign("(") => {
                self.enter()?;
                let inner = self.any()?;
                self.expect(")")?;
                self.depth -= 1;
                Ok(inner)
            }
            Token::Sign("[") => self.list(),
            other => Err(format!("unexpected {other}")),
        }
    }

    fn list(&mut self) -> Result<Expr, String> {
        let mut all = Vec::new();
        while self.take(&["]"]).is_none() {
            if !all.is_empty() {
                self.expect(",")?;
            }
            match self.operand()? {
                one @ Expr::Constant(_) => all.push(one),
                _ => return Err("a list holds texts and numbers".to_owned()),
            }
        }
        Ok(Expr::List(all))
    }

    fn function(&mut self, name: &str) -> Result<Expr, String> {
        if name == "incidr" {
            self.expect("(")?;
            let of = self.operand()?;
            self.expect(",")?;
            let network = self.operand()?;
            self.expect(")")?;
            let (Kind::Text, Expr::Constant(Value::Text(network))) = (of.kind(), network) else {
                return Err("incidr needs an address and a network in quotes".to_owned());
            };
            let parsed = network.parse().map_err(|_| format!("{network} is no network"))?;
            return Ok(Expr::InNetwork(Box::new(of), parsed));
        }
        let found = FUNCTIONS.iter().find(|(known, ..)| *known == name);
        let (_, kind, read) = found.ok_or_else(|| format!("{name} is not supported"))?;
        self.expect("(")?;
        self.expect(")")?;
        Ok(Expr::Of(*kind, *read))
    }
}

fn boolean(expr: Expr) -> Result<Expr, String> {
    if expr.kind() == Kind::Bool {
        Ok(expr)
    } else {
        Err("what is joined or negated is no condition".to_owned())
    }
}

fn joined(mut parts: Vec<Expr>, join: fn(Vec<Expr>) -> Expr) -> Result<Expr, String> {
    match (parts.len(), parts.pop()) {
        (1, Some(only)) => Ok(only),
        (_, last) => Ok(join(parts.into_iter().chain(last).map(boolean).collect::<Result<_, _>>()?)),
    }
}

fn compare(how: Compare, left: Expr, right: Expr) -> Result<Expr, String> {
    let orders = !matches!(how, Compare::Equal | Compare::Differs);
    match (left.kind(), right.kind()) {
        (a, b) if a != b || a == Kind::List => Err("what is compared is not of one kind".to_owned()),
        (Kind::Bool, _) if orders => Err("conditions have no order".to_owned()),
        _ => Ok(Expr::Compare(how, Box::new(left), Box::new(right))),
    }
}

fn relate(word: &str, left: Expr, right: Expr) -> Result<Expr, String> {
    let text = |expr: &Expr| expr.kind() == Kind::Text;
    if word == "in" {
        return match right {
            Expr::List(list) if list.iter().all(|one| one.kind() == left.kind()) => {
                Ok(Expr::Among(Box::new(left), list))
            }
            Expr::Range(from, to) if left.kind() == Kind::Number => {
                Ok(Expr::Within(Box::new(left), from, to))
            }
            _ => Err("in needs a list of the same kind behind it".to_owned()),
        };
    }
    if word == "matches" {
        let Expr::Constant(Value::Text(pattern)) = right else {
            return Err("matches needs a regular expression in quotes".to_owned());
        };
        if !text(&left) {
            return Err("matches needs a text before it".to_owned());
        }
        let regex = RegexBuilder::new(&pattern).size_limit(MAX_REGEX).build();
        let regex = regex.map_err(|_| format!("{pattern} is no regular expression"))?;
        return Ok(Expr::Matches(Box::new(left), regex));
    }
    let part = match word {
        "contains" => Part::Contains,
        "startsWith" => Part::Starts,
        _ => Part::Ends,
    };
    if text(&left) && text(&right) {
        return Ok(Expr::Part(part, Box::new(left), Box::new(right)));
    }
    Err(format!("{word} needs a text on both sides"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(client: &str) -> Asked<'static> {
        Asked {
            client: client.parse().unwrap(),
            protocol: "udp",
            name: "abc.x.example.com.".into(),
            kind: "A".into(),
            class: "IN".into(),
            size: 40,
            buffer: 1232,
            dnssec: true,
            id: 7,
            opcode: 0,
            port: 53,
        }
    }

    #[test]
    fn conditions_hold_or_do_not() {
        let (old, new) = (asked("127.0.0.9:4000"), asked("[fd00::1]:4000"));
        for (text, of_old, of_new) in [
            ("true", true, true),
            ("incidr(client_ip(), '127.0.0.0/24')", true, false),
            ("incidr(client_ip(), 'fd00::/8')", false, true),
            ("client_ip() == '[fd00::1]'", false, true),
            ("type() in ['A', 'AAAA']", true, true),
            ("type() not in ['A', 'AAAA']", false, false),
            ("name() matches '^abc\\\\..*\\\\.example\\\\.com\\\\.$'", true, true),
            ("name() matches '^x'", false, false),
            ("(type() == 'A' && name() == 'example.com.') || client_ip() == '127.0.0.9'", true, false),
            ("not do() or size() > 100", false, false),
            ("!do() || bufsize() >= 1232 and id() in 5..9", true, true),
            ("name() startsWith 'abc.' and name() endsWith \".com.\" and name() contains '.x.'", true, true),
            ("proto() != 'tcp' && class() == 'IN' && port() == '4000' && server_port() == '53'", true, true),
            ("opcode() == 1", false, false),
        ] {
            let condition = Condition::parse(text).unwrap();
            assert_eq!((condition.holds(&old), condition.holds(&new)), (of_old, of_new), "{text}");
        }
        let conditions = ["true", "do()", "size() < 41"].map(|text| Condition::parse(text).unwrap());
        let view = |conditions: &[Condition]| View { name: "v".into(), conditions: conditions.to_vec() };
        assert!(view(&conditions).admits(&old) && view(&[]).admits(&old));
        assert!(!view(&[conditions[0].clone(), Condition::parse("!do()").unwrap()]).admits(&old));
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for (text, want) in [
            ("", "the expression ends too early"),
            ("name()", "name() is no condition"),
            ("type() == 1", "what is compared is not of one kind"),
            ("type() in [1]", "in needs a list of the same kind behind it"),
            ("size() in 'a'", "in needs a list of the same kind behind it"),
            ("name() matches '('", "( is no regular expression"),
            ("name() matches type()", "matches needs a regular expression in quotes"),
            ("incidr(client_ip(), '10.0.0')", "10.0.0 is no network"),
            ("incidr('10.0.0.0/8')", "unexpected ), want ,"),
            ("server_ip() == '10.0.0.1'", "server_ip is not supported"),
            ("metadata('a') == 'b'", "metadata is not supported"),
            ("do() && size()", "what is joined or negated is no condition"),
            ("do() true", "unexpected true"),
            ("(do()", ") is missing"),
            ("name() == 'a", "'a does not end"),
            ("name() # 'a'", "unexpected #"),
            ("do() < true", "conditions have no order"),
            ("do() not", "not is followed by nothing that can be negated"),
        ] {
            assert_eq!(Condition::parse(text).unwrap_err(), want, "{text}");
        }
        let deep = "(".repeat(1000) + "true" + &")".repeat(1000);
        assert_eq!(Condition::parse(&deep).unwrap_err(), "conditions are nested too deep");
        assert_eq!(Condition::parse(&"!".repeat(1000)).unwrap_err(), "conditions are nested too deep");
    }
}
