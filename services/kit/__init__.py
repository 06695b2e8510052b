"""What every gRPC service needs, and nothing of what any one of them is about."""
