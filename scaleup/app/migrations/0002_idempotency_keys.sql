-- What was answered to requests that came with an Idempotency-Key, stored in the transaction of what they did.
-- `id` grows with time, so that old keys are found by the primary key, and no other index is needed for it.
CREATE TABLE IF NOT EXISTS idempotency_keys (
    id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    idempotency_key VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    fingerprint VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    response VARCHAR(4096) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    created DATETIME(6) NOT NULL,
    UNIQUE KEY idempotency_keys_key (idempotency_key)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
