"""The Roomcast appliance: boots machines from the network, keeps what is known of them, casts images to them."""
