//! The contract is sound, and a real Quay keeps it.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;

#[test]
fn every_reference_and_index_names_something_known() {
    let mut seen = BTreeSet::new();
    for table in &contract().tables {
        assert!(seen.insert(table.name.as_str()), "{} is described twice", table.name);
        assert!(!table.why.is_empty());
        let columns: Vec<_> = table.all_columns().collect();
        for target in columns.iter().filter_map(|column| column.references.as_deref()) {
            assert!(seen.contains(target), "{} refers to {target} before it exists", table.name);
        }
        for name in table.unique.iter().chain(&table.indexes).flatten() {
            assert!(
                columns.iter().any(|column| &column.name == name),
                "{}.{name}: no such column",
                table.name
            );
        }
    }
}

#[test]
fn a_column_is_one_line() {
    let column = Column::try_from("kind_id integer null = 1 -> repositorykind".to_owned()).unwrap();
    assert_eq!(column.name, "kind_id");
    assert_eq!(column.ty, Type::Integer);
    assert!(column.nullable);
    assert_eq!(column.default.as_deref(), Some("1"));
    assert_eq!(column.references.as_deref(), Some("repositorykind"));
    for bad in ["", "id", "id float", "id varchar(x)", "id serial =", "id serial nul"] {
        Column::try_from(bad.to_owned()).unwrap_err();
    }
}

#[test]
fn each_kind_of_drift_is_found_and_names_its_capabilities() {
    let mut live: Vec<LiveColumn> = contract()
        .tables
        .iter()
        .filter(|table| table.name != "tag")
        .flat_map(|table| table.all_columns().map(move |column| (table, column)))
        .filter(|(_, column)| !["uncompressed_size", "skopeo_timeout"].contains(&&*column.name))
        .map(|(table, column)| LiveColumn {
            table: table.name.clone(),
            column: column.name.clone(),
            data_type: format!("{:?}", column.ty.family()).to_lowercase(),
            nullable: column.nullable,
            any_size: false,
        })
        .collect();
    live.retain(|c| (c.table.as_str(), c.column.as_str()) != ("robotaccounttoken", "token"));
    for column in live.iter_mut().filter(|column| column.table == "manifest") {
        match column.column.as_str() {
            "digest" => column.nullable = true,
            "manifest_bytes" => column.data_type = "bytea".to_owned(),
            _ => {}
        }
    }
    let found: Vec<String> =
        compare(contract(), &live).iter().map(|d| format!("{d} {:?}", d.capabilities)).collect();
    assert_eq!(
        found,
        [
            r#"robotaccounttoken.token: the column is missing ["V2_AUTH"]"#,
            r#"manifest.digest: may be NULL, we rely on a value ["V2_PULL", "V2_PUSH", "repomirrorworker"]"#,
            r#"manifest.manifest_bytes: is bytea, we rely on text ["V2_PULL", "V2_PUSH", "repomirrorworker"]"#,
            r#"tag: the table is missing ["V2_PULL", "V2_PUSH", "repomirrorworker"]"#,
            r#"imagestorage.uncompressed_size: the column is missing ["V2_PUSH", "repomirrorworker"]"#,
            r#"repomirrorconfig.skopeo_timeout: the column is missing ["repomirrorworker"]"#,
        ]
    );
}

/// The contract against the schema of a real Quay, where a recording of it is at hand.
#[test]
fn a_real_quay_keeps_the_contract() {
    let recorded =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/quay-data/quay-schema.sql");
    let Ok(dump) = std::fs::read_to_string(&recorded) else {
        println!("skipped: no recorded schema");
        return;
    };
    let live = columns_of_dump(&dump);
    assert!(live.len() > 500, "only {} columns understood", live.len());
    let drifts: Vec<String> = compare(contract(), &live).iter().map(Drift::to_string).collect();
    assert!(drifts.is_empty(), "{drifts:#?}");

    // Columns given for their shape alone must be right as well, and none that must be filled be left out.
    for table in &contract().tables {
        let known: Vec<_> = table.all_columns().collect();
        let real: Vec<_> = live.iter().filter(|live| live.table == table.name).collect();
        for column in &known {
            let real = real.iter().find(|real| real.column == column.name).copied();
            assert_eq!(column.problem(real), None, "{}.{}", table.name, column.name);
            assert_eq!(
                real.map(|real| real.nullable),
                Some(column.nullable),
                "{}.{}",
                table.name,
                column.name
            );
        }
        for real in real.iter().filter(|real| !real.nullable) {
            assert!(
                known.iter().any(|column| column.name == real.column),
                "{}.{}",
                table.name,
                real.column
            );
        }
    }
}

/// Columns of every `CREATE TABLE public.x (…);` that pg_dump wrote.
fn columns_of_dump(dump: &str) -> Vec<LiveColumn> {
    let mut columns = Vec::new();
    for block in dump.split("CREATE TABLE public.").skip(1) {
        let (table, rest) = block.split_once(" (\n").expect("a table has columns");
        let (body, _) = rest.split_once("\n);").expect("a table ends");
        for line in body.lines().map(|line| line.trim().trim_end_matches(',')) {
            let Some((column, rest)) =
                line.split_once(' ').filter(|(word, _)| *word != "CONSTRAINT")
            else {
                continue;
            };
            let data_type =
                rest.split(" DEFAULT").next().unwrap_or(rest).trim_end_matches(" NOT NULL");
            columns.push(LiveColumn {
                table: table.trim_matches('"').to_owned(),
                column: column.trim_matches('"').to_owned(),
                data_type: data_type.to_owned(),
                nullable: !line.ends_with("NOT NULL"),
                any_size: false,
            });
        }
    }
    columns
}
