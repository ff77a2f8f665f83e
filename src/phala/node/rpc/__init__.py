"""The node's JSON-RPC: HTTP and WebSocket on one port, in the shapes of Substrate's."""
