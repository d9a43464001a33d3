-- Full-text search over the catalogue, and orders.

-- 'simple' knows no language: names, brands and article numbers are found as they are written, whatever a business speaks.
-- No GIN index: `@@` is not leakproof, so under row-level security the planner would pass it by; the tenant's rows are
-- found by the indexes on business_id, and a catalogue is small.
ALTER TABLE products ADD COLUMN search tsvector NOT NULL GENERATED ALWAYS AS (
    to_tsvector('simple', name || ' ' || description || ' ' || coalesce(sku, ''))
    || jsonb_to_tsvector('simple', attributes, '["string", "numeric"]')) STORED;
ALTER TABLE services ADD COLUMN search tsvector NOT NULL GENERATED ALWAYS AS (
    to_tsvector('simple', name || ' ' || description || ' ' || coalesce(sku, ''))
    || jsonb_to_tsvector('simple', attributes, '["string", "numeric"]')) STORED;
CREATE INDEX products_newest ON products (business_id, created_at DESC, product_id DESC);
CREATE INDEX services_newest ON services (business_id, created_at DESC, service_id DESC);

CREATE TABLE orders (
    business_id uuid NOT NULL REFERENCES businesses ON DELETE CASCADE,
    order_id uuid NOT NULL,
    order_number text NOT NULL,
    user_id uuid,               -- null once the business has forgotten the customer: its books stay whole
    status text NOT NULL DEFAULT 'new',
    items json NOT NULL,        -- [{"product_id"?, "service_id"?, "name", "quantity", "unit_price"}]: as sold, not as listed now
    total numeric(18, 4) NOT NULL CHECK (total >= 0),
    currency text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (business_id, order_id),
    CONSTRAINT orders_order_number_key UNIQUE (business_id, order_number),
    CONSTRAINT orders_user_fkey FOREIGN KEY (business_id, user_id) REFERENCES memberships ON DELETE SET NULL (user_id)
);
CREATE INDEX orders_newest ON orders (business_id, created_at DESC, order_id DESC);
CREATE INDEX orders_of_user ON orders (business_id, user_id, created_at DESC, order_id DESC);
CREATE INDEX orders_of_status ON orders (business_id, status, created_at DESC, order_id DESC);

ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
ALTER TABLE orders FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON orders USING (business_id = (SELECT app_business()))
    WITH CHECK (business_id = (SELECT app_business()));
GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO icmp_app;
