"""What the child may touch: grants, protected paths and the plan made of them."""
