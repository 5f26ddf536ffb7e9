//! JSON Patch (RFC 6902) as Connect supports it: `add`, `remove` and `replace`, with fields by id or by index.

use serde_json::Value;

/// Applies a list of operations; on an error `item` may be partially changed.
pub(crate) fn apply(item: &mut Value, operations: &[Value]) -> Result<(), String> {
    operations.iter().try_for_each(|operation| apply_one(item, operation))
}

fn apply_one(item: &mut Value, operation: &Value) -> Result<(), String> {
    let text = |name: &str| operation[name].as_str().ok_or_else(|| format!("patch operation without {name}"));
    let (op, path, value) = (text("op")?, text("path")?, operation["value"].clone());
    let missing = || format!("path {path} does not exist");

    let (parent, last) = path.rsplit_once('/').ok_or_else(missing)?;
    if parent.is_empty() && last.is_empty() {
        return merge(item, op, value);
    }
    let mut target = item;
    for step in parent.split('/').skip(1) {
        target = child(target, &unescape(step)).ok_or_else(missing)?;
    }
    let last = unescape(last);
    match (op, target) {
        // Connect appends to a list that is itself the path.
        ("add", Value::Object(members)) if matches!(members.get(&last), Some(Value::Array(_))) && !value.is_array() => {
            members[&last].as_array_mut().ok_or_else(missing)?.push(value);
        }
        ("add", Value::Object(members)) => {
            members.insert(last, value);
        }
        ("add", Value::Array(elements)) if last == "-" => elements.push(value),
        ("add", Value::Array(elements)) => match last.parse() {
            Ok(index) if index <= elements.len() => elements.insert(index, value),
            _ => return Err(missing()),
        },
        ("replace", target) => *child(target, &last).ok_or_else(missing)? = value,
        ("remove", Value::Object(members)) => {
            members.remove(&last).ok_or_else(missing)?;
        }
        ("remove", Value::Array(elements)) => {
            elements.remove(position(elements, &last).ok_or_else(missing)?);
        }
        ("add" | "remove", _) => return Err(missing()),
        _ => return Err(format!("patch operation {op} is not supported")),
    }
    Ok(())
}

/// Replaces the whole item, except for the members that only the server sets.
fn merge(item: &mut Value, op: &str, value: Value) -> Result<(), String> {
    let (Value::Object(members), Value::Object(new), "replace" | "add") = (item, value, op) else {
        return Err(format!("cannot {op} the whole item"));
    };
    members.extend(new);
    Ok(())
}

fn child<'a>(parent: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    match parent {
        Value::Object(members) => members.get_mut(name),
        Value::Array(elements) => position(elements, name).map(|index| &mut elements[index]),
        _ => None,
    }
}

/// The index of an element that is given by its id or by its index.
fn position(elements: &[Value], name: &str) -> Option<usize> {
    let by_id = elements.iter().position(|element| element["id"] == name);
    by_id.or_else(|| name.parse().ok().filter(|&index| index < elements.len()))
}

/// Decodes the escapes of a JSON pointer (RFC 6901).
fn unescape(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}
