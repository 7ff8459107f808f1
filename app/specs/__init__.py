"""What a server speaks, as documents: AsyncAPI, OpenAPI, TypeScript, and what has changed between two of them."""
