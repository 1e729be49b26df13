BEGIN TRANSACTION;
CREATE TABLE cast_session (
	id INTEGER NOT NULL, 
	number BIGINT NOT NULL, 
	image VARCHAR(63) NOT NULL, 
	version INTEGER NOT NULL, 
	manifest_hash VARCHAR(64) NOT NULL, 
	group_address VARCHAR(15) NOT NULL, 
	data_port INTEGER NOT NULL, 
	min_receivers INTEGER NOT NULL, 
	max_wait_s FLOAT NOT NULL, 
	max_bitrate_bps BIGINT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	created_s FLOAT NOT NULL, 
	ended_s FLOAT, 
	statistics JSON NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE event (
	id INTEGER NOT NULL, 
	at_s FLOAT NOT NULL, 
	session_id INTEGER, 
	machine_id INTEGER, 
	task_id INTEGER, 
	text TEXT NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(session_id) REFERENCES cast_session (id), 
	FOREIGN KEY(machine_id) REFERENCES machine (id), 
	FOREIGN KEY(task_id) REFERENCES task (id)
);
INSERT INTO "event" VALUES(1,1000.0,NULL,1,NULL,'pc-01 registered for the first time');
CREATE TABLE lease (
	address VARCHAR(15) NOT NULL, 
	mac VARCHAR(17) NOT NULL, 
	expires_s FLOAT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	hostname VARCHAR(63) NOT NULL, 
	PRIMARY KEY (address)
);
INSERT INTO "lease" VALUES('10.77.0.50','52:54:00:00:00:01',2000.0,'bound','pc-01');
CREATE TABLE machine (
	id INTEGER NOT NULL, 
	name VARCHAR(63) NOT NULL, 
	system_uuid VARCHAR(36) NOT NULL, 
	inventory JSON NOT NULL, 
	token_digest VARCHAR(64) NOT NULL, 
	registered_s FLOAT NOT NULL, 
	seen_s FLOAT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (name)
);
INSERT INTO "machine" VALUES(1,'pc-01','','{"agent_version": "0.1.0", "boot_mac": "52:54:00:00:00:01", "address": "10.77.0.50", "system_uuid": "", "serial": "S1", "manufacturer": "QEMU", "product": "Standard PC", "cpu_model": "QEMU Virtual CPU", "cpu_count": 2, "memory_bytes": 2147483648, "firmware": "bios", "secure_boot": false, "boot_s": 6.5, "disks": [{"device": "/dev/vda", "model": "", "serial": "disk-1", "size_bytes": 4294967296, "logical_sector_bytes": 512, "bus": "virtio", "removable": false}], "nics": [{"name": "eth0", "mac": "52:54:00:00:00:01", "driver": "virtio_net", "speed_mbps": 0}]}','d1',1000.0,1000.0);
INSERT INTO "machine" VALUES(2,'pc-000002','','{"agent_version": "0.1.0", "boot_mac": "52:54:00:00:00:02", "address": "10.77.0.50", "system_uuid": "", "serial": "S1", "manufacturer": "QEMU", "product": "Standard PC", "cpu_model": "QEMU Virtual CPU", "cpu_count": 2, "memory_bytes": 2147483648, "firmware": "bios", "secure_boot": false, "boot_s": 6.5, "disks": [{"device": "/dev/vda", "model": "", "serial": "disk-1", "size_bytes": 4294967296, "logical_sector_bytes": 512, "bus": "virtio", "removable": false}], "nics": [{"name": "eth0", "mac": "52:54:00:00:00:02", "driver": "virtio_net", "speed_mbps": 0}]}','d2',1001.0,1001.0);
CREATE TABLE machine_group (
	id INTEGER NOT NULL, 
	name VARCHAR(63) NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (name)
);
INSERT INTO "machine_group" VALUES(1,'room-1');
CREATE TABLE membership (
	group_id INTEGER NOT NULL, 
	machine_id INTEGER NOT NULL, 
	PRIMARY KEY (group_id, machine_id), 
	FOREIGN KEY(group_id) REFERENCES machine_group (id), 
	FOREIGN KEY(machine_id) REFERENCES machine (id)
);
INSERT INTO "membership" VALUES(1,1);
CREATE TABLE nic (
	mac VARCHAR(17) NOT NULL, 
	machine_id INTEGER NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	driver VARCHAR(64) NOT NULL, 
	PRIMARY KEY (mac), 
	FOREIGN KEY(machine_id) REFERENCES machine (id)
);
INSERT INTO "nic" VALUES('52:54:00:00:00:01',1,'eth0','virtio_net');
INSERT INTO "nic" VALUES('52:54:00:00:00:02',2,'eth0','virtio_net');
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(1);
CREATE TABLE task (
	id INTEGER NOT NULL, 
	machine_id INTEGER NOT NULL, 
	session_id INTEGER, 
	kind VARCHAR(16) NOT NULL, 
	image VARCHAR(63) NOT NULL, 
	version INTEGER NOT NULL, 
	device VARCHAR(255) NOT NULL, 
	receiver INTEGER NOT NULL, 
	"after" VARCHAR(16) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	created_s FLOAT NOT NULL, 
	started_s FLOAT, 
	ended_s FLOAT, 
	error TEXT NOT NULL, 
	log JSON NOT NULL, 
	proof JSON, 
	PRIMARY KEY (id), 
	UNIQUE (session_id, receiver), 
	FOREIGN KEY(machine_id) REFERENCES machine (id), 
	FOREIGN KEY(session_id) REFERENCES cast_session (id)
);
CREATE INDEX ix_machine_system_uuid ON machine (system_uuid);
CREATE INDEX ix_cast_session_state ON cast_session (state);
CREATE INDEX ix_lease_mac ON lease (mac);
CREATE INDEX ix_nic_machine_id ON nic (machine_id);
CREATE INDEX task_by_state ON task (state);
CREATE INDEX ix_task_session_id ON task (session_id);
CREATE INDEX task_of_machine ON task (machine_id, state);
CREATE INDEX ix_event_machine_id ON event (machine_id);
CREATE INDEX ix_event_session_id ON event (session_id);
COMMIT;
