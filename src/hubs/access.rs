//! Who may use a hub, and for which functions. Pure.
//!
//! Owns the meaning of `allowedNamespaces` and `allowedFunctions` (product.md 2).
//! Invariants: what is not allowed explicitly is refused; a pattern matches a
//! whole name or nothing, and only `*` in it is special.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::api::v1alpha1::{From, TaskHubSpec};

/// Who may use a hub: everything of its TaskHub that the answer depends on but labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Access {
    namespace: String,
    hub: String,
    namespaces: Namespaces,
    functions: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Namespaces {
    Same,
    Selected(LabelSelector),
    All,
}

/// Why an object may not use a hub, as its `Ready` condition says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAllowed {
    /// `NamespaceNotAllowed` or `FunctionNotAllowed`.
    pub reason: &'static str,
    /// What to change, and where.
    pub message: String,
}

impl Access {
    /// What the TaskHub `hub` in `namespace` grants.
    pub fn new(namespace: &str, hub: &str, spec: &TaskHubSpec) -> Access {
        let namespaces = match (spec.allowed_namespaces.from, &spec.allowed_namespaces.selector) {
            (From::All, _) => Namespaces::All,
            (From::Selector, Some(selector)) => Namespaces::Selected(selector.clone()),
            // The schema forbids a missing selector; an empty one would mean all.
            (From::Selector, None) | (From::Same, _) => Namespaces::Same,
        };
        Access { namespace: namespace.to_owned(), hub: hub.to_owned(), namespaces, functions: spec.allowed_functions.clone() }
    }

    /// True if the answer for `namespace` depends on the labels of that namespace.
    pub fn needs_labels(&self, namespace: &str) -> bool {
        namespace != self.namespace && matches!(self.namespaces, Namespaces::Selected(_))
    }

    /// Whether objects of `namespace`, which has `labels`, may run `function` through the hub; without a function, whether they
    /// may use it at all.
    ///
    /// # Errors
    /// [`NotAllowed`].
    pub fn allows(&self, namespace: &str, labels: &BTreeMap<String, String>, function: Option<&str>) -> Result<(), NotAllowed> {
        self.namespace(namespace, labels)?;
        function.map_or(Ok(()), |function| self.function(function))
    }

    /// Whether objects of `namespace`, which has `labels`, may use the hub.
    ///
    /// # Errors
    /// [`NotAllowed`] with `NamespaceNotAllowed`.
    pub fn namespace(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Result<(), NotAllowed> {
        let allowed = namespace == self.namespace
            || match &self.namespaces {
                Namespaces::Same => false,
                Namespaces::Selected(selector) => selects(selector, labels),
                Namespaces::All => true,
            };
        if allowed {
            return Ok(());
        }
        let why = match self.namespaces {
            Namespaces::Selected(_) => "its spec.allowedNamespaces.selector does not match the labels of this namespace",
            Namespaces::Same | Namespaces::All => "its spec.allowedNamespaces allows its own namespace only",
        };
        Err(NotAllowed {
            reason: "NamespaceNotAllowed",
            message: format!(
                "TaskHub {}/{} may not be used from the namespace {namespace}: {why}. Its owner decides",
                self.namespace, self.hub
            ),
        })
    }

    /// Whether `function` may be run through the hub.
    ///
    /// # Errors
    /// [`NotAllowed`] with `FunctionNotAllowed`.
    pub fn function(&self, function: &str) -> Result<(), NotAllowed> {
        let Some(patterns) = &self.functions else { return Ok(()) };
        if patterns.iter().any(|pattern| matches(pattern, function)) {
            return Ok(());
        }
        Err(NotAllowed {
            reason: "FunctionNotAllowed",
            message: format!(
                "TaskHub {}/{} does not allow the function {function}: none of its spec.allowedFunctions matches the whole name. Its owner decides",
                self.namespace, self.hub
            ),
        })
    }

    /// That the labels of `namespace` are needed and cannot be had, because of `why`.
    pub(super) fn unknown_labels(&self, namespace: &str, why: &str) -> NotAllowed {
        NotAllowed {
            reason: "NamespaceNotAllowed",
            message: format!(
                "TaskHub {}/{} selects namespaces by their labels, and {why} (namespace {namespace})",
                self.namespace, self.hub
            ),
        }
    }
}

/// As Kubernetes selects: all requirements hold; a requirement that cannot be understood does not.
fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = |(key, value): (&String, &String)| labels.get(key) == Some(value);
    selector.match_labels.iter().flatten().all(equal)
        && selector.match_expressions.iter().flatten().all(|requirement| holds(requirement, labels))
}

fn holds(requirement: &LabelSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let value = labels.get(&requirement.key);
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => !values.is_empty() && value.is_none_or(|value| !values.contains(value)),
        "Exists" => values.is_empty() && value.is_some(),
        "DoesNotExist" => values.is_empty() && value.is_none(),
        _ => false,
    }
}

/// True if `pattern`, in which `*` stands for any text, is the whole of `name`.
///
/// At most one step back per byte of `name`: a pattern of many stars costs the product of both lengths, never more.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while seen < name.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at, seen));
            at += 1;
        } else if pattern.get(at) == name.get(seen) {
            at += 1;
            seen += 1;
        } else if let Some((star_at, covered)) = star {
            star = Some((star_at, covered + 1));
            at = star_at + 1;
            seen = covered + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn access(more: Value) -> Access {
        let mut spec = json!({"hubName": "OrdersHub", "connection": {"connectionStringSecretRef": {"name": "s", "key": "k"}}});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        Access::new("shop", "orders", &serde_json::from_str(&spec.to_string()).unwrap())
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn without_a_word_only_the_own_namespace_is_allowed() {
        let own = access(json!({}));
        assert_eq!(own.namespace("shop", &labels(&[])), Ok(()));
        for foreign in ["shop2", "sho", "", "SHOP", "kube-system"] {
            let refused = own.namespace(foreign, &labels(&[("kubernetes.io/metadata.name", "shop")])).unwrap_err();
            assert_eq!(refused.reason, "NamespaceNotAllowed");
            assert!(refused.message.contains("TaskHub shop/orders may not be used"), "{}", refused.message);
        }
        let all = access(json!({"allowedNamespaces": {"from": "All"}}));
        assert_eq!(all.namespace("anything", &labels(&[])), Ok(()));
        // The schema does not let this through; if it did, it must not open the hub.
        let broken = access(json!({"allowedNamespaces": {"from": "Selector"}}));
        assert!(broken.namespace("other", &labels(&[])).is_err() && !broken.needs_labels("other"));
    }

    #[test]
    fn selectors_select_as_kubernetes_does() {
        let found = labels(&[("team", "checkout"), ("tier", "gold")]);
        for (selector, allowed) in [
            (json!({}), true),
            (json!({"matchLabels": {"team": "checkout"}}), true),
            (json!({"matchLabels": {"team": "Checkout"}}), false),
            (json!({"matchLabels": {"team": "checkout", "tier": "silver"}}), false),
            (json!({"matchLabels": {"absent": ""}}), false),
            (json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["silver", "gold"]}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["go"]}]}), false),
            (json!({"matchExpressions": [{"key": "tier", "operator": "In"}]}), false),
            (json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["gold"]}]}), false),
            (json!({"matchExpressions": [{"key": "absent", "operator": "NotIn", "values": ["gold"]}]}), true),
            (json!({"matchExpressions": [{"key": "absent", "operator": "NotIn"}]}), false),
            (json!({"matchExpressions": [{"key": "team", "operator": "Exists"}]}), true),
            (json!({"matchExpressions": [{"key": "absent", "operator": "Exists"}]}), false),
            (json!({"matchExpressions": [{"key": "absent", "operator": "DoesNotExist"}]}), true),
            (json!({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}), false),
            (json!({"matchExpressions": [{"key": "team", "operator": "Matches", "values": ["checkout"]}]}), false),
            (json!({"matchExpressions": [{"key": "team", "operator": "exists"}]}), false),
            (json!({"matchLabels": {"team": "checkout"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]}), true),
            (json!({"matchLabels": {"team": "checkout"}, "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}), false),
        ] {
            let access = access(json!({"allowedNamespaces": {"from": "Selector", "selector": selector}}));
            assert_eq!(access.namespace("other", &found).is_ok(), allowed, "{selector}");
            assert!(access.needs_labels("other") && !access.needs_labels("shop"));
            assert_eq!(access.namespace("shop", &labels(&[])), Ok(()), "the own namespace needs no labels");
        }
    }

    #[test]
    fn patterns_are_the_whole_name() {
        for (pattern, name, expected) in [
            ("Order", "Order", true),
            ("Order", "Orders", false),
            ("Order", "MyOrder", false),
            ("Order", "order", false),
            ("Order*", "Order", true),
            ("Order*", "OrderRefund", true),
            ("Order*", "MyOrderRefund", false),
            ("*Order", "MyOrder", true),
            ("*Order", "MyOrderRefund", false),
            ("*Order*", "MyOrderRefund", true),
            ("Order*Refund", "OrderRefund", true),
            ("Order*Refund", "OrderRefundRefund", true),
            ("Order*Refund", "OrderRefunds", false),
            ("*", "", true),
            ("**", "anything", true),
            ("", "", true),
            ("", "x", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*ü*", "Prüfung", true),
            // Nothing else is special.
            ("Order?", "Orders", false),
            ("Order?", "Order?", true),
            ("Order[s]", "Orders", false),
            ("Ord.r", "Order", false),
            ("^Order$", "Order", false),
            ("Order|Refund", "Order", false),
            ("Order\\*", "Order*", false),
            ("Order", "Order\nRefund", false),
            ("Order", "Order\0", false),
            ("Order*", "x\nOrder", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern:?} on {name:?}");
            let access = access(json!({"allowedFunctions": ["NoSuch", pattern]}));
            assert_eq!(access.function(name).is_ok(), expected, "{pattern:?} on {name:?}");
        }
        let none = access(json!({"allowedFunctions": []}));
        assert_eq!(none.function("Order").unwrap_err().reason, "FunctionNotAllowed");
        assert_eq!(access(json!({})).function("Order"), Ok(()));
    }

    #[test]
    fn a_hostile_pattern_costs_little() {
        let pattern = "*a".repeat(128);
        let name = format!("{}b", "a".repeat(255));
        let begun = std::time::Instant::now();
        assert!(!matches(&pattern, &name));
        assert!(begun.elapsed() < std::time::Duration::from_secs(1), "{:?}", begun.elapsed());
    }
}
