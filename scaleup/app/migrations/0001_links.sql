-- The links. `id` orders pages; `code` and `url` are ASCII and compare by bytes, so that /l/Abc and /l/abc
-- are two links. Times are UTC, from the application's clock; DATETIME, because TIMESTAMP ends in 2038.
CREATE TABLE IF NOT EXISTS links (
    id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    code VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    url VARCHAR(2048) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    clicks BIGINT UNSIGNED NOT NULL DEFAULT 0,
    created DATETIME(6) NOT NULL,
    UNIQUE KEY links_code (code)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
