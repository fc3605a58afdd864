-- name: set_encoding
select set_config('client_encoding', %s, true);

-- name: backend
select pg_backend_pid();
