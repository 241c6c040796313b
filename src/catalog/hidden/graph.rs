//! Which objects of a database hide something because of what they use: a closure over plain facts.
//!
//! What a function does, so does the view that calls it, the function that names that view, and the table it is a trigger
//! of. Pure. Not here: what a single source or expression does (`source`), where the facts come from (`question`).
//!
//! Invariant: more facts never make fewer names (`tests::more_facts_never_hide_less`).

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::names::Names;
use crate::sql::effects::Effects;

/// What an object is. Each kind has its own numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A function, procedure or aggregate.
    Function,
    /// A table, view, or anything else with columns.
    Relation,
    /// A domain or any other type that is not a relation's.
    Type,
    /// What runs without being named: operators, casts, event triggers.
    Everywhere,
}

/// One object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Object(pub Kind, pub u32);

type Map<K, V> = HashMap<K, V, FixedState>;

/// Objects, what they do by themselves, and what they use.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    objects: Vec<Node>,
    known: Map<Object, usize>,
    by_name: Map<Box<[u8]>, Vec<usize>>,
    /// Names in the sources of functions; a name may be anything's.
    mentions: Vec<(usize, Vec<Box<[u8]>>)>,
    settings: Vec<Box<[u8]>>,
}

#[derive(Clone, Debug)]
struct Node {
    object: Object,
    name: Option<Box<[u8]>>,
    effects: Effects,
    /// Those that do what this does.
    users: Vec<usize>,
}

impl Graph {
    fn index(&mut self, object: Object) -> usize {
        let next = self.objects.len();
        let index = *self.known.entry(object).or_insert(next);
        if index == next {
            self.objects.push(Node { object, name: None, effects: Effects::NONE, users: Vec::new() });
        }
        index
    }

    /// Says what an object is called.
    pub fn name(&mut self, object: Object, name: &[u8]) {
        let index = self.index(object);
        if let Some(node) = self.objects.get_mut(index)
            && node.name.is_none()
        {
            node.name = Some(name.into());
            self.by_name.entry(name.into()).or_default().push(index);
        }
    }

    /// Says what it does by itself.
    pub fn does(&mut self, object: Object, effects: Effects) {
        let index = self.index(object);
        if let Some(node) = self.objects.get_mut(index) {
            node.effects |= effects;
        }
    }

    /// Says that whatever `used` does, `user` does as well.
    pub fn uses(&mut self, user: Object, used: Object) {
        let (user, used) = (self.index(user), self.index(used));
        if let Some(node) = self.objects.get_mut(used) {
            node.users.push(user);
        }
    }

    /// Says which names stand in an object's source.
    pub fn mentions(&mut self, user: Object, names: Vec<Box<[u8]>>) {
        let user = self.index(user);
        self.mentions.push((user, names));
    }

    /// Says which settings something in the database sets.
    pub fn sets(&mut self, names: impl IntoIterator<Item = Box<[u8]>>) {
        self.settings.extend(names);
    }

    /// What follows from it all, by name.
    #[must_use]
    pub fn names(mut self) -> Names {
        let settings = std::mem::take(&mut self.settings);
        let mut names = Names::default();
        for (object, name, effects) in self.closed() {
            match (object.0, &name) {
                (Kind::Everywhere, _) => names.add_everywhere(effects),
                (_, Some(name)) => names.add(name, effects),
                // something that has no name is not named
                (_, None) => {}
            }
        }
        names.add_settings(settings.into_iter());
        names
    }

    /// All objects with their names and what they do after all.
    pub fn closed(mut self) -> impl Iterator<Item = (Object, Option<Box<[u8]>>, Effects)> {
        for (user, mentioned) in std::mem::take(&mut self.mentions) {
            for name in mentioned {
                for used in self.by_name.get(&name).into_iter().flatten() {
                    if let Some(node) = self.objects.get_mut(*used) {
                        node.users.push(user);
                    }
                }
            }
        }
        self.spread();
        self.objects.into_iter().map(|node| (node.object, node.name, node.effects))
    }

    /// Gives every object the effects of all it uses, directly or not. Ends because effects only grow.
    fn spread(&mut self) {
        let active = |(index, node): (usize, &Node)| (!node.effects.is_empty()).then_some(index);
        let mut changed: Vec<usize> = self.objects.iter().enumerate().filter_map(active).collect();
        while let Some(index) = changed.pop() {
            let Some(node) = self.objects.get(index) else { continue };
            let effects = node.effects;
            for user in node.users.clone() {
                if let Some(user_node) = self.objects.get_mut(user)
                    && user_node.effects | effects != user_node.effects
                {
                    user_node.effects |= effects;
                    changed.push(user);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FUNCTION: Object = Object(Kind::Function, 1);
    const WRAPPER: Object = Object(Kind::Function, 2);
    const TABLE: Object = Object(Kind::Relation, 1);
    const VIEW: Object = Object(Kind::Relation, 2);

    fn named() -> Graph {
        let mut graph = Graph::default();
        for (object, name) in [(FUNCTION, "f"), (WRAPPER, "w"), (TABLE, "t"), (VIEW, "v")] {
            graph.name(object, name.as_bytes());
        }
        graph
    }

    #[test]
    fn who_uses_what_hides_something_hides_it_too() {
        let mut graph = named();
        graph.does(FUNCTION, Effects::SETS);
        graph.uses(VIEW, FUNCTION);
        graph.mentions(WRAPPER, vec![b"v".as_slice().into(), b"nobody".as_slice().into()]);
        graph.sets([b"app.x".as_slice().into()]);
        let names = graph.names();
        assert!([b"f", b"v", b"w"].iter().all(|name| names.effects(*name) == Effects::SETS));
        assert!(!names.contains(b"t"));
        assert_eq!(names.settings(), [b"app.x".as_slice().into()]);
    }

    #[test]
    fn an_operator_makes_everything_suspicious() {
        let mut graph = named();
        graph.uses(Object(Kind::Everywhere, 7), FUNCTION);
        assert!(graph.clone().names().is_empty());
        graph.does(FUNCTION, Effects::HIDES);
        assert!(graph.names().contains(b"anything"));
    }

    #[test]
    fn a_circle_comes_to_an_end() {
        let mut graph = named();
        graph.uses(FUNCTION, WRAPPER);
        graph.uses(WRAPPER, FUNCTION);
        graph.mentions(WRAPPER, vec![b"w".as_slice().into()]);
        graph.does(WRAPPER, Effects::ADVISORY);
        assert!(graph.names().contains(b"f"));
    }

    /// One fact about four objects of each kind.
    fn fact() -> impl Strategy<Value = (u8, (u8, u32), (u8, u32))> {
        (0..3_u8, (0..4_u8, 0..4_u32), (0..4_u8, 0..4_u32))
    }

    fn graph_of(facts: &[(u8, (u8, u32), (u8, u32))]) -> Graph {
        let kinds = [Kind::Function, Kind::Relation, Kind::Type, Kind::Everywhere];
        let object = |(kind, oid): (u8, u32)| Object(kinds[usize::from(kind)], oid);
        let name = |(kind, oid): (u8, u32)| format!("n{kind}{oid}").into_bytes();
        let mut graph = Graph::default();
        for kind in 0..4 {
            for oid in 0..4 {
                graph.name(object((kind, oid)), &name((kind, oid)));
            }
        }
        for (what, a, b) in facts {
            match what {
                0 => graph.does(object(*a), [Effects::SETS, Effects::HIDES, Effects::ADVISORY][b.1 as usize % 3]),
                1 => graph.uses(object(*a), object(*b)),
                _ => graph.mentions(object(*a), vec![name(*b).into()]),
            }
        }
        graph
    }

    proptest! {
        #[test]
        fn more_facts_never_hide_less(facts in prop::collection::vec(fact(), 0..40), keep in 0..40_usize) {
            let all = graph_of(&facts).names();
            let some = graph_of(&facts[..keep.min(facts.len())]).names();
            for kind in 0..4 {
                for oid in 0..4 {
                    let name = format!("n{kind}{oid}").into_bytes();
                    let (few, many) = (some.effects(&name), all.effects(&name));
                    prop_assert_eq!(few | many, many);
                }
            }
        }

        #[test]
        fn an_effect_reaches_exactly_those_who_use_it(facts in prop::collection::vec(fact(), 0..30)) {
            // the same closure, the slow and obvious way: until nothing changes, in the order of the facts
            let mut slow: std::collections::BTreeMap<(u8, u32), Effects> = std::collections::BTreeMap::new();
            for _ in 0..20 {
                for (what, a, b) in &facts {
                    let more = match what {
                        0 => [Effects::SETS, Effects::HIDES, Effects::ADVISORY][b.1 as usize % 3],
                        _ => slow.get(b).copied().unwrap_or_default(),
                    };
                    *slow.entry(*a).or_default() |= more;
                }
            }
            let everywhere = (0..4).fold(Effects::NONE, |all, oid| all | slow.get(&(3, oid)).copied().unwrap_or_default());
            let names = graph_of(&facts).names();
            for kind in 0..3 {
                for oid in 0..4 {
                    let expected = slow.get(&(kind, oid)).copied().unwrap_or_default() | everywhere;
                    prop_assert_eq!(names.effects(&format!("n{kind}{oid}").into_bytes()), expected);
                }
            }
        }
    }
}
