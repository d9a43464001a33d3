-- Which business gave a person the login, and may know its password: only there, or by the master, it gets rights. Null: given
-- before this was written down.
ALTER TABLE users ADD COLUMN login_made_by uuid;
GRANT UPDATE (login_made_by) ON users TO icmp_app;
