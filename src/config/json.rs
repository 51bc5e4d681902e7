//! Tables of the file as JSON: settings that only a component understands.

use serde_json::{Map, Number, Value};
use toml::de::DeValue;

use super::file::Item;

impl Item<'_> {
    /// The table as JSON, for what only a component understands; dates and times become texts. `text` reads each
    /// text in it.
    pub fn json_object(
        &self,
        text: &dyn Fn(&Item<'_>, &str) -> Option<String>,
    ) -> Option<Map<String, Value>> {
        match self.json(text)? {
            Value::Object(object) => Some(object),
            _ => self.bad("a table of settings"),
        }
    }

    fn json(&self, text: &dyn Fn(&Item<'_>, &str) -> Option<String>) -> Option<Value> {
        Some(match self.value {
            DeValue::String(value) => Value::from(text(self, value)?),
            DeValue::Integer(i) => match i64::from_str_radix(i.as_str(), i.radix()) {
                Ok(integer) => Value::from(integer),
                Err(_) => return self.bad("a whole number of 64 bits"),
            },
            // JSON has no infinity, and nothing that is no number.
            DeValue::Float(float) => match float.as_str().parse().ok().and_then(Number::from_f64) {
                Some(number) => Value::from(number),
                None => return self.bad("a finite number"),
            },
            DeValue::Boolean(value) => Value::from(*value),
            DeValue::Datetime(value) => Value::from(value.to_string()),
            // Each of them is read, whatever is wrong with the one before.
            DeValue::Array(_) => {
                let values: Vec<_> = self.list().iter().map(|item| item.json(text)).collect();
                values.into_iter().collect::<Option<_>>()?
            }
            DeValue::Table(_) => {
                let read = |(name, item): (&str, Item<'_>)| Some((name.to_owned(), item.json(text)?));
                let entries: Vec<_> = self.section()?.all().into_iter().map(read).collect();
                entries.into_iter().collect::<Option<_>>()?
            }
        })
    }
}
