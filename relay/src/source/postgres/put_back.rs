//! The statement that puts released rows back where they were, for the outbox and for tables of somebody else.

/// Where rows go back to. The texts are the relay's own, or identifiers in quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Home {
    pub(super) table: String,
    pub(super) seq: String,
    pub(super) id: String,
    /// A row whose id is there already is not put back a second time.
    pub(super) id_is_unique: bool,
    /// The position may be one that the table always makes itself.
    pub(super) overriding: bool,
    /// All columns but the position.
    pub(super) columns: String,
    /// What goes into them, from the columns of `relay_parked`.
    pub(super) values: String,
}

impl Home {
    /// The outbox.
    pub(super) fn outbox() -> Self {
        let columns = "id, created_at, destination, aggregatetype, aggregateid, type, payload, headers, tracingspancontext";
        Self {
            table: "outbox".to_owned(),
            seq: "seq".to_owned(),
            id: "id".to_owned(),
            id_is_unique: false,
            overriding: false,
            columns: columns.to_owned(),
            values: columns.to_owned(),
        }
    }
}

/// $1 = source, $2 and $3 = after this row, $4 = limit, $5 = epoch. The same as parking, the other way round. A position that
/// somebody else has by now (the table was emptied and its numbers begin anew) is left to them, and the row goes to the end.
pub(super) fn statement(home: &Home) -> String {
    let Home { table, seq, id, columns, values, .. } = home;
    let overriding = if home.overriding { "OVERRIDING SYSTEM VALUE" } else { "" };
    let (at_its_place, at_the_end) = if home.id_is_unique {
        ("ON CONFLICT DO NOTHING".to_owned(), format!("ON CONFLICT ({id}) DO NOTHING"))
    } else {
        (format!("ON CONFLICT ({seq}) DO NOTHING"), String::new())
    };
    format!(
        "WITH fence AS MATERIALIZED (SELECT 1 FROM relay_source WHERE source = $1 AND epoch = $5 FOR SHARE), \
         f AS (SELECT p.seq, p.id FROM relay_parked p WHERE p.source = $1 AND p.state = 'behind' \
           AND (p.seq, p.id) > ($2, $3) AND NOT EXISTS (SELECT FROM relay_parked q WHERE q.source = p.source \
             AND q.state = 'poison' AND q.aggregatetype = p.aggregatetype AND q.aggregateid = p.aggregateid AND q.seq < p.seq) \
           ORDER BY p.seq, p.id LIMIT $4), \
         d AS (DELETE FROM relay_parked p USING fence, f WHERE p.source = $1 AND p.seq = f.seq AND p.id = f.id RETURNING p.*), \
         i AS (INSERT INTO {table} ({seq}, {columns}) {overriding} SELECT seq, {values} FROM d ORDER BY seq \
           {at_its_place} RETURNING {seq} AS seq, {id} AS id), \
         e AS (INSERT INTO {table} ({columns}) SELECT {values} FROM d \
           WHERE NOT EXISTS (SELECT FROM i WHERE i.seq = d.seq AND i.id = d.id) ORDER BY seq {at_the_end}) \
         SELECT EXISTS (SELECT FROM fence), d.seq, d.id FROM (SELECT 1) one LEFT JOIN d ON true ORDER BY d.seq, d.id"
    )
}
