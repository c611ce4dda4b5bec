//! Source to syntax tree: recursive descent by precedence, macros expanded on the way.
//!
//! Contract: the grammar of the CEL language definition with optional syntax (`a.?b`, `a[?b]`,
//! `[?a]`, `{?k: v}`). Depth is bounded, so that no input can exhaust the stack of later passes.

use crate::{
    ast::{Ast, Entry, Expr, Field, Id, Kind, Literal},
    lexer::{Token, TokenKind, tokens},
    macros,
    source::Issue,
};

/// Nested brackets, arguments and literals.
const MAX_NESTING: usize = 120;
/// Depth of the finished tree, which chains of operators and selections reach without nesting.
const MAX_DEPTH: u16 = 250;
/// Code points of a source.
const MAX_CODE_POINTS: usize = 100_000;
/// Nodes of a tree; macros that repeat an argument would otherwise double it at each level.
pub(crate) const MAX_NODES: usize = 200_000;

/// Words that cannot name a variable.
const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

const PRIMARY_EXPECTED: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// Parses one expression; `bindings` adds the `cel.bind` macro.
pub(crate) fn parse(source: &str, bindings: bool) -> Result<Ast, Vec<Issue>> {
    let size = source.chars().count();
    if size > MAX_CODE_POINTS {
        let message =
            format!("expression code point size exceeds limit: size: {size}, limit {MAX_CODE_POINTS}");
        return Err(vec![Issue { offset: 0, message }]);
    }
    let tokens = tokens(source).map_err(|issue| vec![issue])?;
    let mut parser =
        Parser { tokens, at: 0, offsets: vec![0], nesting: 0, issues: Vec::new(), bindings, too_deep: false };
    match parser.whole() {
        Ok(root) if parser.issues.is_empty() => Ok(Ast { root, offsets: parser.offsets }),
        Ok(_) => Err(parser.issues),
        Err(issue) => {
            parser.issues.push(issue);
            Err(parser.issues)
        }
    }
}

/// The state of a parse; macros allocate their nodes here.
pub(crate) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    offsets: Vec<u32>,
    nesting: usize,
    issues: Vec<Issue>,
    bindings: bool,
    too_deep: bool,
}

impl Parser {
    fn whole(&mut self) -> Result<Expr, Issue> {
        let root = self.expr()?;
        if self.peek() != &TokenKind::End {
            let last = self.tokens.get(self.at + 1).is_some_and(|t| t.kind == TokenKind::End);
            let how = if last { "extraneous" } else { "mismatched" };
            return Err(self.syntax(format!("{how} input '{}' expecting <EOF>", self.shown())));
        }
        Ok(root)
    }

    fn peek(&self) -> &TokenKind {
        &self.tokens[self.at].kind
    }

    fn offset(&self) -> usize {
        self.tokens[self.at].offset
    }

    fn shown(&self) -> String {
        match self.peek() {
            TokenKind::End => "<EOF>".to_owned(),
            TokenKind::Ident(name) => name.clone(),
            TokenKind::Punct(p) => (*p).to_owned(),
            TokenKind::Literal(Literal::Int(i)) => i.to_string(),
            TokenKind::Literal(Literal::Uint(i)) => format!("{i}u"),
            TokenKind::Literal(Literal::Double(d)) => d.to_string(),
            TokenKind::Literal(Literal::String(s)) => format!("'{s}'"),
            TokenKind::Literal(_) => "literal".to_owned(),
            TokenKind::SmallestIntMagnitude => "9223372036854775808".to_owned(),
        }
    }

    fn syntax(&self, message: String) -> Issue {
        Issue { offset: self.offset(), message: format!("Syntax error: {message}") }
    }

    fn advance(&mut self) -> TokenKind {
        let kind = self.peek().clone();
        // The last token is `End`, which stays current.
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        kind
    }

    fn take(&mut self, punct: &str) -> bool {
        let found = matches!(self.peek(), TokenKind::Punct(p) if *p == punct);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, punct: &str) -> Result<(), Issue> {
        if self.take(punct) {
            return Ok(());
        }
        Err(self.syntax(format!("mismatched input '{}' expecting '{punct}'", self.shown())))
    }

    /// A new node id for a place in the source.
    pub(crate) fn id(&mut self, offset: usize) -> Id {
        let id = u32::try_from(self.offsets.len()).unwrap_or(u32::MAX);
        // Sources are at most 100,000 code points.
        self.offsets.push(u32::try_from(offset).unwrap_or(u32::MAX));
        id
    }

    /// Where a node stands.
    pub(crate) fn offset_of(&self, id: Id) -> usize {
        self.offsets.get(id as usize).map_or(0, |o| *o as usize)
    }

    /// A node of a new id. A tree that gets too deep for later passes, or to be dropped, is cut off and reported.
    pub(crate) fn node(&mut self, offset: usize, kind: Kind) -> Expr {
        let depth = 1 + children(&kind).into_iter().map(|child| child.depth).max().unwrap_or(0);
        if depth <= MAX_DEPTH {
            return Expr { id: self.id(offset), kind, depth };
        }
        if !self.too_deep {
            self.too_deep = true;
            let message = format!("expression recursion limit exceeded: {MAX_DEPTH}");
            self.issues.push(Issue { offset, message });
        }
        Expr { id: self.id(offset), kind: Kind::Literal(Literal::Null), depth: 1 }
    }

    /// A call of an operator or global function.
    pub(crate) fn call(&mut self, offset: usize, function: &str, args: Vec<Expr>) -> Expr {
        self.node(offset, Kind::Call { target: None, function: function.to_owned(), args })
    }

    fn expr(&mut self) -> Result<Expr, Issue> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            let message = format!("expression recursion limit exceeded: {MAX_DEPTH}");
            return Err(Issue { offset: self.offset(), message });
        }
        let condition = self.or()?;
        let offset = self.offset();
        let expr = if self.take("?") {
            let yes = self.or()?;
            self.expect(":")?;
            let no = self.expr()?;
            self.call(offset, "_?_:_", vec![condition, yes, no])
        } else {
            condition
        };
        self.nesting -= 1;
        Ok(expr)
    }

    fn or(&mut self) -> Result<Expr, Issue> {
        self.logic("||", "_||_", Self::and)
    }

    fn and(&mut self) -> Result<Expr, Issue> {
        self.logic("&&", "_&&_", Self::relation)
    }

    fn logic(
        &mut self,
        punct: &str,
        function: &str,
        next: fn(&mut Self) -> Result<Expr, Issue>,
    ) -> Result<Expr, Issue> {
        let mut terms = vec![next(self)?];
        let mut ops = Vec::new();
        loop {
            let offset = self.offset();
            if !self.take(punct) {
                break;
            }
            ops.push(offset);
            terms.push(next(self)?);
        }
        Ok(self.balanced(function, terms, &ops))
    }

    /// A chain as a balanced tree, so that long conditions stay shallow.
    fn balanced(&mut self, function: &str, mut terms: Vec<Expr>, ops: &[usize]) -> Expr {
        if ops.is_empty() {
            // `logic` reads one term before any operator.
            return terms.swap_remove(0);
        }
        let middle = ops.len() / 2;
        let right = terms.split_off(middle + 1);
        let left = self.balanced(function, terms, &ops[..middle]);
        let right = self.balanced(function, right, &ops[middle + 1..]);
        self.call(ops[middle], function, vec![left, right])
    }

    fn relation(&mut self) -> Result<Expr, Issue> {
        let mut left = self.sum()?;
        loop {
            let offset = self.offset();
            let function = match self.peek() {
                TokenKind::Punct("<") => "_<_",
                TokenKind::Punct("<=") => "_<=_",
                TokenKind::Punct(">") => "_>_",
                TokenKind::Punct(">=") => "_>=_",
                TokenKind::Punct("==") => "_==_",
                TokenKind::Punct("!=") => "_!=_",
                TokenKind::Ident(word) if word == "in" => "@in",
                _ => return Ok(left),
            };
            self.advance();
            let right = self.sum()?;
            left = self.call(offset, function, vec![left, right]);
        }
    }

    fn sum(&mut self) -> Result<Expr, Issue> {
        let mut left = self.product()?;
        loop {
            let offset = self.offset();
            let function = match self.peek() {
                TokenKind::Punct("+") => "_+_",
                TokenKind::Punct("-") => "_-_",
                _ => return Ok(left),
            };
            self.advance();
            let right = self.product()?;
            left = self.call(offset, function, vec![left, right]);
        }
    }

    fn product(&mut self) -> Result<Expr, Issue> {
        let mut left = self.unary()?;
        loop {
            let offset = self.offset();
            let function = match self.peek() {
                TokenKind::Punct("*") => "_*_",
                TokenKind::Punct("/") => "_/_",
                TokenKind::Punct("%") => "_%_",
                _ => return Ok(left),
            };
            self.advance();
            let right = self.unary()?;
            left = self.call(offset, function, vec![left, right]);
        }
    }

    fn unary(&mut self) -> Result<Expr, Issue> {
        let offset = self.offset();
        for (punct, function) in [("!", "!_"), ("-", "-_")] {
            let mut count = 0;
            while matches!(self.peek(), TokenKind::Punct(p) if *p == punct) {
                // The last minus before a number belongs to the literal.
                let number = matches!(
                    self.tokens.get(self.at + 1).map(|t| &t.kind),
                    Some(
                        TokenKind::Literal(Literal::Int(_) | Literal::Double(_))
                            | TokenKind::SmallestIntMagnitude
                    )
                );
                if punct == "-" && number {
                    break;
                }
                self.advance();
                count += 1;
            }
            if count > 0 {
                let operand = self.member()?;
                return Ok(if count % 2 == 1 { self.call(offset, function, vec![operand]) } else { operand });
            }
        }
        self.member()
    }

    fn member(&mut self) -> Result<Expr, Issue> {
        let mut expr = self.primary()?;
        loop {
            let offset = self.offset();
            if self.take(".") {
                expr = self.selection(expr, offset)?;
            } else if self.take("[") {
                let optional = self.take("?");
                let index = self.expr()?;
                self.expect("]")?;
                let function = if optional { "_[?_]" } else { "_[_]" };
                expr = self.call(offset, function, vec![expr, index]);
            } else if matches!(self.peek(), TokenKind::Punct("{"))
                && let Some(name) = expr.qualified_name()
            {
                expr = self.message(name)?;
            } else {
                return Ok(expr);
            }
        }
    }

    /// After a dot: a field, an optional field or a member call.
    fn selection(&mut self, operand: Expr, offset: usize) -> Result<Expr, Issue> {
        let optional = self.take("?");
        let name_offset = self.offset();
        let name = match self.peek() {
            TokenKind::Ident(name) if name != "in" => name.clone(),
            _ => {
                return Err(self.syntax(format!(
                    "no viable alternative at input '.{}'",
                    if self.peek() == &TokenKind::End { String::new() } else { self.shown() }
                )));
            }
        };
        self.advance();
        if optional {
            let field = self.node(name_offset, Kind::Literal(Literal::String(name)));
            return Ok(self.call(offset, "_?._", vec![operand, field]));
        }
        let open = self.offset();
        if self.take("(") {
            let args = self.arguments(")")?;
            return self.called(open, Some(operand), name, args);
        }
        Ok(self.node(offset, Kind::Select { operand: Box::new(operand), field: name, test: false }))
    }

    /// A call, or what the macro of that name makes of it.
    fn called(
        &mut self,
        offset: usize,
        target: Option<Expr>,
        function: String,
        args: Vec<Expr>,
    ) -> Result<Expr, Issue> {
        let bindings = self.bindings;
        match macros::expand(self, offset, target, &function, args, bindings) {
            macros::Expansion::Macro(expr) => {
                if count(&expr, MAX_NODES) >= MAX_NODES {
                    let message = "expression grows too large by its macros".to_owned();
                    return Err(Issue { offset, message });
                }
                Ok(expr)
            }
            macros::Expansion::Wrong(issue) => {
                self.issues.push(issue);
                Ok(self.node(offset, Kind::Literal(Literal::Null)))
            }
            macros::Expansion::Call(target, args) => {
                Ok(self.node(offset, Kind::Call { target: target.map(Box::new), function, args }))
            }
        }
    }

    fn arguments(&mut self, close: &str) -> Result<Vec<Expr>, Issue> {
        let mut args = Vec::new();
        if self.take(close) {
            return Ok(args);
        }
        loop {
            args.push(self.expr()?);
            if !self.take(",") {
                self.expect(close)?;
                return Ok(args);
            }
        }
    }

    fn primary(&mut self) -> Result<Expr, Issue> {
        let offset = self.offset();
        let kind = match self.peek().clone() {
            TokenKind::Literal(literal) => {
                self.advance();
                Kind::Literal(literal)
            }
            TokenKind::Punct("-") => return self.negative(),
            TokenKind::Punct("(") => {
                self.advance();
                let inner = self.expr()?;
                self.expect(")")?;
                return Ok(inner);
            }
            TokenKind::Punct("[") => return self.list(),
            TokenKind::Punct("{") => return self.map(),
            TokenKind::Punct(".") => {
                self.advance();
                match self.peek().clone() {
                    TokenKind::Ident(name) if !RESERVED.contains(&name.as_str()) => {
                        self.advance();
                        return self.named(offset, format!(".{name}"));
                    }
                    _ => return Err(self.unexpected()),
                }
            }
            TokenKind::Ident(name) => match name.as_str() {
                "true" | "false" => {
                    self.advance();
                    Kind::Literal(Literal::Bool(name == "true"))
                }
                "null" => {
                    self.advance();
                    Kind::Literal(Literal::Null)
                }
                "in" => return Err(self.unexpected()),
                _ => {
                    self.advance();
                    return self.named(offset, name);
                }
            },
            TokenKind::SmallestIntMagnitude => {
                return Err(Issue { offset, message: "invalid int literal".to_owned() });
            }
            TokenKind::Punct(_) | TokenKind::End => return Err(self.unexpected()),
        };
        Ok(self.node(offset, kind))
    }

    fn unexpected(&self) -> Issue {
        self.syntax(format!("mismatched input '{}' expecting {PRIMARY_EXPECTED}", self.shown()))
    }

    /// A literal with its minus.
    fn negative(&mut self) -> Result<Expr, Issue> {
        let offset = self.offset();
        self.advance();
        let literal = match self.advance() {
            TokenKind::Literal(Literal::Int(i)) => Literal::Int(-i),
            TokenKind::Literal(Literal::Double(d)) => Literal::Double(-d),
            TokenKind::SmallestIntMagnitude => Literal::Int(i64::MIN),
            _ => {
                self.at = self.at.saturating_sub(1);
                return Err(self.unexpected());
            }
        };
        Ok(self.node(offset, Kind::Literal(literal)))
    }

    /// A name: a call when a parenthesis follows.
    fn named(&mut self, offset: usize, name: String) -> Result<Expr, Issue> {
        if RESERVED.contains(&name.as_str()) {
            self.issues.push(Issue { offset, message: format!("reserved identifier: {name}") });
        }
        let open = self.offset();
        if self.take("(") {
            let args = self.arguments(")")?;
            return self.called(open, None, name, args);
        }
        Ok(self.node(offset, Kind::Ident(name)))
    }

    fn list(&mut self) -> Result<Expr, Issue> {
        let offset = self.offset();
        self.expect("[")?;
        let mut elements = Vec::new();
        while !self.take("]") {
            let optional = self.take("?");
            elements.push((self.expr()?, optional));
            if !self.take(",") {
                self.expect("]")?;
                break;
            }
        }
        Ok(self.node(offset, Kind::List(elements)))
    }

    fn map(&mut self) -> Result<Expr, Issue> {
        let offset = self.offset();
        self.expect("{")?;
        let mut entries = Vec::new();
        while !self.take("}") {
            let optional = self.take("?");
            let key = self.expr()?;
            self.expect(":")?;
            let value = self.expr()?;
            entries.push(Entry { key, value, optional });
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(self.node(offset, Kind::Map(entries)))
    }

    fn message(&mut self, name: String) -> Result<Expr, Issue> {
        let offset = self.offset();
        self.expect("{")?;
        let mut fields = Vec::new();
        while !self.take("}") {
            let optional = self.take("?");
            let TokenKind::Ident(field) = self.peek().clone() else {
                return Err(self.syntax(format!("mismatched input '{}' expecting IDENTIFIER", self.shown())));
            };
            self.advance();
            let colon = self.offset();
            self.expect(":")?;
            let value = self.expr()?;
            let id = self.id(colon);
            fields.push(Field { id, name: field, value, optional });
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(self.node(offset, Kind::Struct { name, fields }))
    }
}

/// The children of a node.
pub(crate) fn children(kind: &Kind) -> Vec<&Expr> {
    match kind {
        Kind::Literal(_) | Kind::Ident(_) => Vec::new(),
        Kind::Select { operand, .. } => vec![operand],
        Kind::Call { target, args, .. } => target.as_deref().into_iter().chain(args).collect(),
        Kind::List(elements) => elements.iter().map(|(e, _)| e).collect(),
        Kind::Map(entries) => entries.iter().flat_map(|e| [&e.key, &e.value]).collect(),
        Kind::Struct { fields, .. } => fields.iter().map(|f| &f.value).collect(),
        Kind::Comprehension(c) => vec![&c.range, &c.init, &c.condition, &c.step, &c.result],
    }
}

/// Nodes of a tree, counted up to a limit.
fn count(root: &Expr, limit: usize) -> usize {
    let mut counted = 0;
    let mut open = vec![root];
    while let Some(expr) = open.pop() {
        counted += 1;
        if counted >= limit {
            break;
        }
        open.extend(children(&expr.kind));
    }
    counted
}
