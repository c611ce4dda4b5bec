//! The label selector grammar and the shape of label keys and values.

use super::{Operator, Requirement, SelectorError};

const NAME_EXPRESSION: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const NAME_RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                         alphanumeric character";
const MAX_LENGTH: usize = 63;

/// What is wrong with a label key (a qualified name), in upstream's words.
pub fn key_errors(key: &str) -> Vec<String> {
    let name_rule = || {
        format!(
            "{NAME_RULE} (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{NAME_EXPRESSION}')"
        )
    };
    let mut errors = Vec::new();
    let name = match key.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        [prefix, name] => {
            errors.extend(prefix_error(prefix));
            name
        }
        _ => {
            let rule = name_rule();
            return vec![format!(
                "a valid label key {rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > MAX_LENGTH {
        errors.push(format!("name part must be no more than {MAX_LENGTH} bytes"));
    }
    if !is_name(name) {
        errors.push(format!("name part {}", name_rule()));
    }
    errors
}

fn prefix_error(prefix: &str) -> Option<String> {
    if prefix.is_empty() {
        return Some("prefix part must be non-empty".to_owned());
    }
    if prefix.len() > 253 {
        return Some("prefix part must be no more than 253 bytes".to_owned());
    }
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    (!prefix.split('.').all(label)).then(|| {
        "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
         must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            .to_owned()
    })
}

/// What is wrong with a label value, in upstream's words.
pub fn value_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > MAX_LENGTH {
        errors.push(format!("must be no more than {MAX_LENGTH} bytes"));
    }
    if !value.is_empty() && !is_name(value) {
        errors.push(format!(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start \
             and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
             validation is '({NAME_EXPRESSION})?')"
        ));
    }
    errors
}

fn is_name(name: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    edge(name.bytes().next())
        && edge(name.bytes().last())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// The message for a bad key at `path`.
pub(super) fn key_message(path: &str, key: &str) -> Option<String> {
    let errors = key_errors(key);
    (!errors.is_empty()).then(|| format!("{path}: Invalid value: {key:?}: {}", errors.join("; ")))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    End,
    Open,
    Close,
    Comma,
    Not,
    Binary(Operator, &'a str),
    Identifier(&'a str),
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Token::End => "",
            Token::Open => "(",
            Token::Close => ")",
            Token::Comma => ",",
            Token::Not => "!",
            Token::Binary(_, text) | Token::Identifier(text) => text,
        }
    }

    /// `in` and `notin` are ordinary words wherever a key or value may stand.
    fn as_value(self) -> Token<'a> {
        match self {
            Token::Binary(Operator::In | Operator::NotIn, text) => Token::Identifier(text),
            other => other,
        }
    }
}

fn lex(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', '\r', '\n']);
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            '!' if rest.starts_with("!=") => (Token::Binary(Operator::NotEquals, "!="), 2),
            '!' => (Token::Not, 1),
            '=' if rest.starts_with("==") => (Token::Binary(Operator::DoubleEquals, "=="), 2),
            '=' => (Token::Binary(Operator::Equals, "="), 1),
            '>' => (Token::Binary(Operator::GreaterThan, ">"), 1),
            '<' => (Token::Binary(Operator::LessThan, "<"), 1),
            _ => {
                let end = rest.find([' ', '\t', '\r', '\n', '=', '!', '(', ')', ',', '>', '<']);
                let word = &rest[..end.unwrap_or(rest.len())];
                let token = match word {
                    "in" => Token::Binary(Operator::In, word),
                    "notin" => Token::Binary(Operator::NotIn, word),
                    _ => Token::Identifier(word),
                };
                (token, word.len())
            }
        };
        tokens.push(token);
        rest = rest[length..].trim_start_matches([' ', '\t', '\r', '\n']);
    }
    tokens.push(Token::End);
    tokens
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    position: usize,
}

/// Parses a selector text into unsorted requirements.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser { tokens: lex(text), position: 0 };
    let mut requirements = Vec::new();
    loop {
        match parser.peek() {
            Token::Identifier(_) | Token::Not => {}
            Token::End => return Ok(requirements),
            other => return unexpected(other, "!, identifier, or 'end of string'"),
        }
        let requirement =
            parser.requirement().map_err(|error| SelectorError::Requirement(Box::new(error)))?;
        requirements.push(requirement);
        match parser.next().as_value() {
            Token::End => return Ok(requirements),
            Token::Comma => match parser.peek() {
                Token::Identifier(_) | Token::Not => {}
                other => return unexpected(other, "identifier after ','"),
            },
            other => return unexpected(other, "',' or 'end of string'"),
        }
    }
}

fn unexpected<T>(found: Token<'_>, expected: &'static str) -> Result<T, SelectorError> {
    Err(SelectorError::Unexpected { found: found.text().to_owned(), expected })
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.position).copied().unwrap_or(Token::End).as_value()
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.tokens.get(self.position).copied().unwrap_or(Token::End);
        self.position += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let mut token = self.next().as_value();
        let negated = token == Token::Not;
        if negated {
            token = self.next().as_value();
        }
        let Token::Identifier(key) = token else { return unexpected(token, "identifier") };
        if let Some(message) = key_message("<nil>", key) {
            return Err(SelectorError::Invalid(vec![message]));
        }
        if negated {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let token = self.next();
        let Token::Binary(operator, _) = token else {
            return unexpected(token, "in, notin, =, ==, !=, gt, lt");
        };
        debug_assert!(!operator.as_str().is_empty());
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        Requirement::new(key, operator, values)
    }

    fn exact_value(&mut self) -> Result<String, SelectorError> {
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.next().as_value() {
            Token::Identifier(value) => Ok(value.to_owned()),
            other => unexpected(other, "identifier"),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        let token = self.next().as_value();
        if token != Token::Open {
            return Err(SelectorError::NoParenthesis(token.text().to_owned()));
        }
        match self.peek() {
            Token::Identifier(_) | Token::Comma => self.list(),
            Token::Close => {
                self.next();
                Ok(vec![String::new()])
            }
            other => unexpected(other, "',', ')' or identifier"),
        }
    }

    /// Comma-separated words up to the closing parenthesis; a missing word is the empty value.
    fn list(&mut self) -> Result<Vec<String>, SelectorError> {
        let mut values = Vec::new();
        let mut word_expected = true;
        loop {
            match self.next().as_value() {
                Token::Identifier(value) if word_expected => {
                    values.push(value.to_owned());
                    word_expected = false;
                }
                Token::Comma => {
                    if word_expected {
                        values.push(String::new());
                    }
                    word_expected = true;
                }
                Token::Close => {
                    if word_expected {
                        values.push(String::new());
                    }
                    values.sort_unstable();
                    values.dedup();
                    return Ok(values);
                }
                other if word_expected => return unexpected(other, "',', or identifier"),
                other => return unexpected(other, "',' or ')'"),
            }
        }
    }
}
