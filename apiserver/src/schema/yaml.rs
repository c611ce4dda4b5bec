//! YAML to JSON, keeping what strict validation needs: keys that a map has twice, with their lines.

use std::{borrow::Cow, fmt};

use proto::node::Node;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{DuplicateKeyPolicy, Options, Spanned};

/// The value of a text, and upstream's complaints about duplicate keys.
pub(super) fn parse(body: &[u8]) -> Result<(Node<'static>, Vec<String>), String> {
    let text = std::str::from_utf8(body).map_err(|e| format!("error converting YAML to JSON: {e}"))?;
    let mut options = Options::default();
    options.duplicate_keys = DuplicateKeyPolicy::LastWins;
    let tree: Tree = serde_saphyr::from_str_with_options(text, options)
        .map_err(|e| format!("error converting YAML to JSON: {e}"))?;
    let mut duplicates = Vec::new();
    let node = tree.into_node(&mut duplicates);
    if !duplicates.is_empty() {
        duplicates = vec![format!("yaml: unmarshal errors:\n  {}", duplicates.join("\n  "))];
    }
    Ok((node, duplicates))
}

/// A YAML value whose maps know the lines of their values.
enum Tree {
    Leaf(Node<'static>),
    List(Vec<Tree>),
    Map(Vec<(String, Spanned<Tree>)>),
}

impl Tree {
    fn into_node(self, duplicates: &mut Vec<String>) -> Node<'static> {
        match self {
            Self::Leaf(node) => node,
            Self::List(members) => {
                Node::Array(members.into_iter().map(|m| m.into_node(duplicates)).collect())
            }
            Self::Map(members) => {
                let mut out: Vec<(Cow<'static, str>, Node<'static>)> = Vec::with_capacity(members.len());
                for (key, value) in members {
                    let line = value.defined.line();
                    let found = out.iter().position(|(k, _)| *k == key);
                    if found.is_some() {
                        duplicates.push(format!("line {line}: key {key:?} already set in map"));
                    }
                    let node = value.value.into_node(duplicates);
                    match found {
                        Some(at) => out[at].1 = node,
                        None => out.push((Cow::Owned(key), node)),
                    }
                }
                Node::Object(out)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

/// A key: YAML allows numbers and booleans, JSON has their text.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf(Node::Null))
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf(Node::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf(Node::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf(Node::Signed(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf(i64::try_from(value).map_or(Node::Unsigned(value), Node::Signed)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Leaf(Node::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf(Node::String(Cow::Owned(value.to_owned()))))
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::Leaf(Node::String(Cow::Owned(value))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<Tree, A::Error> {
        let mut out = Vec::new();
        while let Some(member) = members.next_element()? {
            out.push(member);
        }
        Ok(Tree::List(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Tree, A::Error> {
        let mut out = Vec::new();
        while let Some((Key(key), value)) = members.next_entry()? {
            out.push((key, value));
        }
        Ok(Tree::Map(out))
    }
}
