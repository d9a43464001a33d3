-- PostgreSQL reads "USB-C/HDMI" as the name of a file and "BK-1042" as a word and a negative number, so that neither HDMI nor
-- 1042 was found. What such signs join is indexed once more, each word by itself; queries do the same (db/catalogue.py).
-- The columns `search` are for the release before, which goes on reading them.
ALTER TABLE products ADD COLUMN words tsvector NOT NULL GENERATED ALWAYS AS (
    to_tsvector('simple', name || ' ' || description || ' ' || coalesce(sku, ''))
    || to_tsvector('simple', regexp_replace(
        name || ' ' || description || ' ' || coalesce(sku, ''), '(?<=[[:alnum:]])[-/_](?=[[:alnum:]])', ' ', 'g'))
    || jsonb_to_tsvector('simple', attributes, '["string", "numeric"]')) STORED;
ALTER TABLE services ADD COLUMN words tsvector NOT NULL GENERATED ALWAYS AS (
    to_tsvector('simple', name || ' ' || description || ' ' || coalesce(sku, ''))
    || to_tsvector('simple', regexp_replace(
        name || ' ' || description || ' ' || coalesce(sku, ''), '(?<=[[:alnum:]])[-/_](?=[[:alnum:]])', ' ', 'g'))
    || jsonb_to_tsvector('simple', attributes, '["string", "numeric"]')) STORED;
