"""A planner of compute buffers: graphs, their schedule over devices, and the allocator."""
