-- Optional, PostgreSQL: writes a message to the outbox from any language, refuses what could not be delivered, and returns its id.
--
--   SELECT outbox_enqueue('queue:mail', 'mail.send', convert_to('{"to": "a@example.org"}', 'UTF8'), aggregateid => '4711');
--
-- Call it in the transaction that has the business rows. It does what a plain INSERT does, with the caller's rights: the role needs
-- INSERT on the columns of a message, as `barid-relay grants print` says, and nothing else. What the relay would park fails here
-- instead, with the transaction: the SQLSTATE is 22023 (invalid_parameter_value), the hint says what to do.
--
--   aggregatetype, aggregateid  the ordering key; without aggregateid the message has no order. The first defaults to the message's name
--                               up to its first dot.
--   headers                     an object of texts; at most 64 KiB
--   bytes_max                   the largest payload in bytes. What Kafka takes by default; on RabbitMQ up to 16777216
CREATE FUNCTION outbox_enqueue(
  destination        text,
  type               text,
  payload            bytea,
  aggregateid        text   DEFAULT NULL,
  aggregatetype      text   DEFAULT NULL,
  headers            jsonb  DEFAULT '{}',
  tracingspancontext text   DEFAULT NULL,
  id                 uuid   DEFAULT NULL,
  bytes_max          bigint DEFAULT 1000000
) RETURNS uuid LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
  wrong     text;
  hint      text;
  header    record;
  headers_n bigint := 0;
BEGIN
  aggregatetype := coalesce(aggregatetype, split_part(type, '.', 1));
  IF destination IS NULL OR destination !~ '^(queue|topic):[A-Za-z0-9._-]{1,200}$' THEN
    wrong := format('destination %L leads nowhere', left(destination, 250));
    hint := 'Write queue:NAME or topic:NAME, where NAME has 1 to 200 of A-Z, a-z, 0-9, dot, underscore and hyphen.';
  ELSIF type IS NULL OR octet_length(type) NOT BETWEEN 1 AND 255 OR type ~ '[[:cntrl:]]' THEN
    wrong := 'the type of a message has 1 to 255 bytes and no control characters';
    hint := 'It is the message''s name, for instance orders.placed.';
  ELSIF octet_length(aggregatetype) NOT BETWEEN 1 AND 255 OR octet_length(aggregateid) > 1000 THEN
    wrong := 'the ordering key is too long, or its first part is empty';
    hint := 'aggregatetype has 1 to 255 bytes, aggregateid at most 1000.';
  ELSIF octet_length(payload) > bytes_max THEN
    wrong := format('the payload has %s bytes, and at most %s are allowed', octet_length(payload), bytes_max);
    hint := 'Keep large content elsewhere and send where it is, or say bytes_max => ... if the broker takes more.';
  ELSIF jsonb_typeof(headers) IS DISTINCT FROM 'object' THEN
    wrong := 'headers are no JSON object';
    hint := 'Write an object whose values are texts.';
  ELSE
    FOR header IN SELECT key, jsonb_typeof(value) AS kind, octet_length(value #>> '{}') AS bytes FROM jsonb_each(headers) LOOP
      headers_n := headers_n + octet_length(header.key) + coalesce(header.bytes, 0);
      IF header.kind <> 'string' THEN
        wrong := format('header %L is no text', left(header.key, 250));
        hint := 'Put it in quotes.';
      ELSIF octet_length(header.key) NOT BETWEEN 1 AND 255 OR header.key ~ '[[:cntrl:]]' THEN
        wrong := 'the name of a header has 1 to 255 bytes and no control characters';
      ELSIF header.key IN ('CC', 'BCC') THEN
        wrong := format('a header may not be called %s', header.key);
        hint := 'RabbitMQ would route copies of the message by it.';
      END IF;
    END LOOP;
    IF headers_n > 65536 THEN
      wrong := format('the headers have %s bytes, and at most 65536 are allowed', headers_n);
      hint := 'What is large belongs into the payload.';
    END IF;
  END IF;
  IF wrong IS NOT NULL THEN
    RAISE EXCEPTION 'outbox_enqueue: %', wrong
      USING ERRCODE = 'invalid_parameter_value', HINT = coalesce(hint, 'Correct it where it is made.');
  END IF;
  -- A UUIDv7: the milliseconds since 1970, and random bits. Such ids are in the order of time, by which retention drops records.
  id := coalesce(id, (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0')
    || '7' || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid);
  INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload, headers, tracingspancontext)
    VALUES (id, destination, aggregatetype, aggregateid, type, payload, headers, tracingspancontext);
  RETURN id;
END $$;
