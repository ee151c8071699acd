//! Random reservations in a tree of budgets, against plain integers: what is granted is what the
//! integers say, no cap is passed at any level at any time, and nothing stays held.

use proptest::prelude::*;

use super::reserve::{Ask, Verdict, check};
use crate::env::UnixMillis;
use crate::ids::BudgetId;
use crate::model::pricing::ModelPrice;
use crate::model::{Amount, Budget, BudgetScope, Currency, NanoUsd, Thresholds};

/// A project with two swarms; the first has two agents with budgets, the second one. By place: the
/// node above, and what it counts.
const TREE: [(Option<usize>, BudgetScope, Currency); 6] = [
    (None, BudgetScope::Project, Currency::Usd),
    (Some(0), BudgetScope::Swarm, Currency::Usd),
    (Some(0), BudgetScope::Swarm, Currency::Tokens),
    (Some(1), BudgetScope::Agent, Currency::Usd),
    (Some(1), BudgetScope::Agent, Currency::Tokens),
    (Some(2), BudgetScope::Agent, Currency::Tokens),
];

/// What happens to the budgets.
#[derive(Debug, Clone)]
enum Op {
    /// An agent asks for a call.
    Reserve {
        leaf: usize,
        input: u64,
        output: u32,
        floor: u32,
    },
    /// A call under way ends, having used so many per cent of what it holds.
    Settle { call: usize, percent: i64 },
    /// A call under way ends without having been billed.
    Release { call: usize },
    /// Every call under one leaf is lost.
    Kill { leaf: usize },
    /// A lost charge becomes known.
    Reconcile { call: usize, percent: i64 },
    /// A cap is set to so much more than is taken, or lifted.
    Allocate { node: usize, room: Option<i64> },
}

fn op() -> impl Strategy<Value = Op> {
    let call = || 0..8_usize;
    prop_oneof![
        8 => (3..6_usize, 0..60_u64, 1..200_u32, 1..60_u32)
            .prop_map(|(leaf, input, output, floor)| Op::Reserve { leaf, input, output, floor }),
        4 => (call(), 0..=100_i64).prop_map(|(call, percent)| Op::Settle { call, percent }),
        1 => call().prop_map(|call| Op::Release { call }),
        1 => (3..6_usize).prop_map(|leaf| Op::Kill { leaf }),
        1 => (call(), 0..=100_i64).prop_map(|(call, percent)| Op::Reconcile { call, percent }),
        2 => (0..6_usize, prop::option::weighted(0.8, 0..500_i64))
            .prop_map(|(node, room)| Op::Allocate { node, room }),
    ]
}

/// One node, in plain integers. A token costs one nano-dollar, so both units count the same.
#[derive(Debug, Clone, Default)]
struct Node {
    cap: Option<i64>,
    spent: i64,
    lost: i64,
    held: i64,
}

#[derive(Debug, Clone, Copy)]
struct Call {
    leaf: usize,
    held: i64,
}

#[derive(Debug, Default)]
struct Ledger {
    nodes: [Node; 6],
    under_way: Vec<Call>,
    lost: Vec<Call>,
    /// What every call has been charged for good.
    charged: i64,
}

/// The places from a leaf to the root.
fn path(leaf: usize) -> Vec<usize> {
    let mut path = vec![leaf];
    while let Some(above) = path.last().and_then(|at| TREE[*at].0) {
        path.push(above);
    }
    path
}

fn penny() -> ModelPrice {
    ModelPrice {
        input: NanoUsd(1_000_000),
        output: NanoUsd(1_000_000),
        ..ModelPrice::default()
    }
}

impl Ledger {
    fn row(&self, at: usize) -> Budget {
        let (node, (above, scope, currency)) = (&self.nodes[at], TREE[at]);
        let id = |at: usize| BudgetId::from_u128(at as u128 + 1);
        Budget {
            id: id(at),
            scope,
            entity_id: String::new(),
            parent_id: above.map(id),
            currency,
            allocated: node.cap,
            spent: node.spent,
            uncertain: node.lost,
            reserved: node.held,
            overrun: 0,
            thresholds: Thresholds::default(),
            fired: 0,
            created_at: UnixMillis(0),
            updated_at: UnixMillis(0),
            version: 1,
        }
    }

    /// What is left on the tightest node of a path, with and without what is held, and who refuses
    /// a call of this size even alone.
    fn left(&self, leaf: usize, needed: i64) -> (i64, i64, Option<usize>) {
        let (mut now, mut alone, mut refuses) = (i64::MAX, i64::MAX, None);
        for (place, at) in path(leaf).into_iter().enumerate() {
            let node = &self.nodes[at];
            let Some(cap) = node.cap else { continue };
            let without_held = cap - node.spent - node.lost;
            now = now.min(without_held - node.held);
            alone = alone.min(without_held);
            if without_held < needed && refuses.is_none() {
                refuses = Some(place);
            }
        }
        (now, alone, refuses)
    }

    /// What plain integers say to an ask.
    fn expected(&self, leaf: usize, input: i64, output: u32, floor: u32) -> Verdict {
        let wanted = input + i64::from(output);
        let least = input + i64::from(floor.min(output));
        let (now, alone, refuses) = self.left(leaf, least);
        let fits = |tokens: i64| Verdict::Fits {
            output_tokens: u32::try_from(tokens - input).unwrap(),
            hold: Amount {
                usd: NanoUsd(tokens),
                tokens: u64::try_from(tokens).unwrap(),
            },
        };
        if wanted <= now {
            fits(wanted)
        } else if wanted <= alone {
            Verdict::Later
        } else if let Some(index) = refuses {
            Verdict::Never {
                index,
                needed: least,
            }
        } else if least > now {
            Verdict::Later
        } else {
            fits(now)
        }
    }

    fn each(&mut self, leaf: usize, change: impl Fn(&mut Node)) {
        for at in path(leaf) {
            change(&mut self.nodes[at]);
        }
    }

    fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match *op {
            Op::Reserve {
                leaf,
                input,
                output,
                floor,
            } => {
                let ask = Ask {
                    input_tokens: input,
                    output_tokens: output,
                    floor,
                    price: penny(),
                };
                let rows: Vec<Budget> = path(leaf).into_iter().map(|at| self.row(at)).collect();
                let verdict = check(&rows.iter().collect::<Vec<_>>(), &ask);
                let input = i64::try_from(input).unwrap();
                let expected = self.expected(leaf, input, output, floor);
                prop_assert_eq!(verdict, expected, "{:?} on {:#?}", ask, rows);
                if let Verdict::Fits { hold, .. } = verdict {
                    let held = hold.usd.0;
                    self.each(leaf, |node| node.held += held);
                    self.under_way.push(Call { leaf, held });
                }
            }
            Op::Settle { call, percent } => self.settle(call, percent),
            Op::Release { call } => self.settle(call, 0),
            Op::Kill { leaf } => {
                let under_way = std::mem::take(&mut self.under_way);
                let (killed, rest) = under_way.into_iter().partition(|call| call.leaf == leaf);
                self.under_way = rest;
                let killed: Vec<Call> = killed;
                for Call { leaf, held } in killed {
                    self.each(leaf, |node| {
                        node.held -= held;
                        node.lost += held;
                    });
                    self.lost.push(Call { leaf, held });
                }
            }
            Op::Reconcile { call, percent } => {
                if call < self.lost.len() {
                    let Call { leaf, held } = self.lost.remove(call);
                    let used = held * percent / 100;
                    self.each(leaf, |node| {
                        node.lost -= held;
                        node.spent += used;
                    });
                    self.charged += used;
                }
            }
            Op::Allocate { node, room } => {
                let node = &mut self.nodes[node];
                let taken = node.spent + node.lost + node.held;
                node.cap = room.map(|room| taken + room);
            }
        }
        Ok(())
    }

    fn settle(&mut self, call: usize, percent: i64) {
        if call < self.under_way.len() {
            let Call { leaf, held } = self.under_way.remove(call);
            let used = held * percent / 100;
            self.each(leaf, |node| {
                node.held -= held;
                node.spent += used;
            });
            self.charged += used;
        }
    }

    /// No cap is passed, and what is above is the sum of what is below.
    fn check(&self) -> Result<(), TestCaseError> {
        for (at, node) in self.nodes.iter().enumerate() {
            let taken = node.spent + node.lost + node.held;
            prop_assert!(
                node.cap.is_none_or(|cap| taken <= cap),
                "node {at}: {node:?}"
            );
            prop_assert!(node.spent >= 0 && node.lost >= 0 && node.held >= 0);
            let below = (0..TREE.len()).filter(|child| TREE[*child].0 == Some(at));
            let below: Vec<&Node> = below.map(|child| &self.nodes[child]).collect();
            if !below.is_empty() {
                let sum = |part: fn(&Node) -> i64| below.iter().map(|node| part(node)).sum::<i64>();
                prop_assert_eq!(node.spent, sum(|node| node.spent));
                prop_assert_eq!(node.lost, sum(|node| node.lost));
                prop_assert_eq!(node.held, sum(|node| node.held));
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(crate::testing::random::cases(1_000))]

    #[test]
    fn no_cap_is_passed_and_nothing_stays_held(
        caps in prop::array::uniform6(prop::option::of(0..2_000_i64)),
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut ledger = Ledger::default();
        for (node, cap) in ledger.nodes.iter_mut().zip(caps) {
            node.cap = cap;
        }
        for op in &ops {
            ledger.apply(op)?;
            ledger.check()?;
        }
        while !ledger.under_way.is_empty() {
            ledger.settle(0, 100);
            ledger.check()?;
        }
        prop_assert!(ledger.nodes.iter().all(|node| node.held == 0));
        let lost: i64 = ledger.lost.iter().map(|call| call.held).sum();
        let root = &ledger.nodes[0];
        prop_assert_eq!((root.spent, root.lost), (ledger.charged, lost));
    }
}
