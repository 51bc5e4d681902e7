//! Own claims of accounts that have become the gateway's to set: `groups` and `preferred_username` were an operator's to
//! set once. What fits becomes the account's groups and its user name; what does not stays in the record, is in no token,
//! and is named to the operator.

use serde_json::Value;

use super::account::User;
use super::claims::{GROUPS_CLAIM, USERNAME_CLAIM, is_reserved};
use super::groups::Groups;
use super::username::Username;

/// An own claim of an account that no token says, because the gateway sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfitClaim {
    pub name: String,
    /// Why it was not taken over, in words. Holds nothing of what it says.
    pub why: String,
}

impl UnfitClaim {
    /// The user name is or was another account's.
    #[must_use]
    pub fn taken_username() -> UnfitClaim {
        let why = "another account has this user name, or had it";
        UnfitClaim { name: USERNAME_CLAIM.to_owned(), why: why.to_owned() }
    }
}

impl User {
    /// The names of its own claims that no token says.
    pub fn unsaid_claims(&self) -> impl Iterator<Item = &str> {
        self.claims.keys().map(String::as_str).filter(|name| is_reserved(name))
    }

    /// Makes the own claims `groups` and `preferred_username` the account's groups and its user name, as far as they
    /// fit. Returns those that do not, which stay as they are. Whether the user name is free is not looked at.
    pub fn take_over_claims(&mut self) -> Vec<UnfitClaim> {
        let mut unfit = Vec::new();
        let names: Vec<String> = self.unsaid_claims().map(str::to_owned).collect();
        for name in names {
            let value = self.claims.get(&name).cloned().unwrap_or_default();
            let taken = match name.as_str() {
                GROUPS_CLAIM => self.take_over_groups(&value),
                USERNAME_CLAIM => self.take_over_username(&value),
                _ => Err("the gateway sets the claim of this name".to_owned()),
            };
            match taken {
                Ok(()) => drop(self.claims.remove(&name)),
                Err(why) => unfit.push(UnfitClaim { name, why }),
            }
        }
        unfit
    }

    fn take_over_groups(&mut self, value: &Value) -> Result<(), String> {
        if !self.groups.is_empty() {
            return Err("the account has groups already".to_owned());
        }
        let names: Option<Vec<&str>> =
            value.as_array().and_then(|names| names.iter().map(Value::as_str).collect());
        // A text of its own may be one name or a list in some app's form: a guess could give its owner more than was meant.
        let names = names.ok_or("it is no list of texts")?;
        self.groups = Groups::new(&names).map_err(|error| error.to_string())?;
        Ok(())
    }

    fn take_over_username(&mut self, value: &Value) -> Result<(), String> {
        if self.username.is_some() {
            return Err("the account has a user name already".to_owned());
        }
        let name: Username =
            value.as_str().ok_or("it is no text")?.parse().map_err(|error| format!("{error}"))?;
        self.username = Some(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::super::account::UserId;
    use super::super::time::UnixTime;
    use super::*;

    fn user(claims: Value) -> User {
        let claims: Map<String, Value> = serde_json::from_value(claims).unwrap();
        User { claims, ..User::without_address(UserId(uuid::Uuid::nil()), UnixTime(1)) }
    }

    #[test]
    fn what_fits_becomes_groups_and_a_user_name() {
        let mut ann = user(json!({
            "groups": ["staff", "Sales, EMEA", "staff"], "preferred_username": "Ann.Lee", "role": "clerk",
        }));
        assert_eq!(ann.take_over_claims(), []);
        assert_eq!(ann.groups.as_slice(), ["Sales, EMEA", "staff"]);
        assert_eq!(ann.username.as_ref().unwrap().as_str(), "ann.lee");
        assert_eq!(Value::from(ann.claims.clone()), json!({"role": "clerk"}));
        let after = ann.clone();
        assert_eq!((ann.take_over_claims(), &ann), (vec![], &after), "done once");
        let mut none = user(json!({"groups": []}));
        assert_eq!((none.take_over_claims(), none.claims.len(), none.groups.is_empty()), (vec![], 0, true));
    }

    #[test]
    fn what_does_not_fit_stays_whole_and_is_named() {
        let many: Vec<String> = (0..201).map(|n| format!("g{n}")).collect();
        for claims in [
            json!({"groups": "staff"}),
            json!({"groups": "staff,admins"}),
            json!({"groups": null}),
            json!({"groups": ["staff", 7]}),
            json!({"groups": ["staff", "a\nb"]}),
            json!({"groups": {"staff": true}}),
            json!({"groups": many}),
            json!({"Groups": ["staff"]}),
            json!({"preferred_username": "ann@example.com"}),
            json!({"preferred_username": "Ann Lee"}),
            json!({"preferred_username": 7}),
            json!({"PREFERRED_USERNAME": "ann"}),
        ] {
            let mut ann = user(claims.clone());
            let before = ann.clone();
            let unfit = ann.take_over_claims();
            assert_eq!(unfit.len(), 1, "{claims}");
            assert_eq!(Some(&unfit[0].name), before.claims.keys().next(), "{claims}");
            assert!(!unfit[0].why.contains("staff") && !unfit[0].why.contains("example.com"), "{unfit:?}");
            assert_eq!(ann, before, "{claims}");
            assert_eq!(ann.unsaid_claims().count(), 1);
        }
        // What an operator has set since goes first.
        let mut ann = User {
            groups: Groups::new(&["new"]).unwrap(),
            username: Some("new".parse().unwrap()),
            ..user(json!({"groups": ["old"], "preferred_username": "old"}))
        };
        let before = ann.clone();
        assert_eq!(ann.take_over_claims().len(), 2);
        assert_eq!(ann, before);
    }
}
