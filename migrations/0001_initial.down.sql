-- Removes everything 0001 made, data included.
DROP VIEW entries_readable;
DROP VIEW steps_readable;
DROP VIEW events_readable;
DROP TABLE events;
DROP TABLE event_types;
DROP TABLE tickets;
DROP TABLE steps;
DROP TABLE entries;
DROP TABLE blobs;
DROP TABLE reservations;
DROP TABLE agents;
DROP TABLE tasks;
DROP TABLE swarms;
DROP TABLE budgets;
DROP TABLE projects;
DROP TABLE _migrations;
