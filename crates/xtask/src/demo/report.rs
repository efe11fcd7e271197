//! What the demo shows at its end: every conflict with both sides and the winner, and that the tables are equal.

use super::node::{DATABASE, Node, SUPERUSER};
use anyhow::{Result, ensure};

/// One side of a conflict as a piece of SQL: who wrote the row, when, and what is in it.
fn side(prefix: &str) -> String {
    format!(
        "CASE WHEN {prefix}_commit_ts IS NULL THEN '(no row)' ELSE concat_ws(' ', 'n' || {prefix}_origin, \
         to_char({prefix}_commit_ts, 'HH24:MI:SS.US'), coalesce({prefix}_row->>'text', '(delete)')) END"
    )
}

/// All conflicts that each node met, in the order in which it decided them.
pub fn conflicts(nodes: &[Node]) -> Result<()> {
    for node in nodes {
        let sql = format!(
            "SELECT conflict_type, key->>'id', {}, {}, CASE conflict_resolution \
             WHEN 'apply_remote' THEN format('n%s, incoming', remote_origin) \
             WHEN 'keep_local' THEN format('n%s, here', local_origin) \
             ELSE format('none: %s', conflict_resolution) END FROM meld.resolutions ORDER BY id",
            side("local"),
            side("remote")
        );
        let rows: Vec<Vec<String>> = node.query(&sql)?.lines().map(fields).collect();
        println!("\nConflicts that {} met:", node.name);
        print!("{}", table(&["conflict", "row", "here", "incoming", "winner"], &rows));
        ensure!(!rows.is_empty(), "{} met no conflict, which cannot be", node.name);
    }
    Ok(())
}

/// The table on each node with the stamp of every row: commit timestamp and node id of the transaction that wrote it.
pub fn equal_tables(nodes: &[Node]) -> Result<()> {
    let sql = "SELECT g.id, g.text, s.timestamp, CASE WHEN s.roident = 0 \
               THEN (SELECT node_id FROM meld.local_node) \
               ELSE (SELECT node_id FROM meld.origin o WHERE o.roident = s.roident) END \
               FROM greeting g, pg_xact_commit_timestamp_origin(g.xmin) s ORDER BY g.id";
    let tables = nodes.iter().map(|node| node.query(sql)).collect::<Result<Vec<_>>>()?;
    let headings = ["id", "text", "commit timestamp", "node id"];
    for (node, rows) in nodes.iter().zip(&tables).skip(1) {
        if *rows != tables[0] {
            for (node, rows) in [(&nodes[0], &tables[0]), (node, rows)] {
                println!("\nThe table on {}:\n{}", node.name, table(&headings, &rows_of(rows)));
            }
            anyhow::bail!("the tables of {} and {} differ", nodes[0].name, node.name);
        }
    }
    println!("\nThe table, equal on all {} nodes, stamps included:", nodes.len());
    print!("{}", table(&headings, &rows_of(&tables[0])));
    Ok(())
}

pub fn what_to_try(nodes: &[Node]) {
    println!("\nThe nodes go on running. Try:");
    for node in nodes {
        let folder = node.folder.display();
        println!("    psql -h {folder} -p {} -U {SUPERUSER} {DATABASE}      # {}", node.port, node.name);
    }
    println!("    INSERT INTO greeting VALUES (100, 'hello');                -- on one node");
    println!("    TABLE greeting;                                            -- on another one");
    println!("    SELECT * FROM meld.sub_show_status();");
    println!("    SELECT * FROM meld.resolutions;");
    println!("Other programs may use TCP at 127.0.0.1, user {SUPERUSER}, password {}.", nodes[0].password);
    println!("`make demo-stop` ends and removes it.");
}

fn rows_of(text: &str) -> Vec<Vec<String>> {
    text.lines().map(fields).collect()
}

fn fields(line: &str) -> Vec<String> {
    line.split('\t').map(str::to_owned).collect()
}

/// Columns as wide as their widest cell.
fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let headings: Vec<String> = headings.iter().map(|heading| (*heading).to_owned()).collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&headings]).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    let mut text = String::new();
    for row in [&headings, &rule].into_iter().chain(rows) {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        text += &format!("    {}\n", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = rows_of("1\tlonger\n22\tb");
        assert_eq!(table(&["id", "t"], &rows), "    id  t\n    --  ------\n    1   longer\n    22  b\n");
    }
}
